extension MutableSpan<Double> {
    /// Scores counts of which fewer are better: (max - n) / (max - min), and 1 if all are equal.
    @inline(__always)
    mutating func scoreFewest(_ candidates: [Int], _ count: (Int) -> Int) {
        var least = Int.max
        var most = Int.min
        for candidate in candidates {
            least = Swift.min(least, count(candidate))
            most = Swift.max(most, count(candidate))
        }
        let range = Double(most - least)
        for (i, candidate) in candidates.enumerated() {
            self[i] = range == 0 ? 1 : Double(most - count(candidate)) / range
        }
    }
}
