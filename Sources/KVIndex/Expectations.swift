import Core

/// Blocks that holders are about to hold, in the order in which the expectation ends.
struct Expectations {
    struct Expectation {
        var until: MonotonicTime
        var holder: UInt16
        var keys: [UInt64]
    }

    private var list: [Expectation] = []
    private var head = 0
    private(set) var keyCount = 0

    var byteCount: Int { 8 * keyCount + list.capacity * MemoryLayout<Expectation>.stride }

    /// When the next one ends.
    var nextEnd: MonotonicTime? { head < list.count ? list[head].until : nil }

    mutating func insert(_ expectation: Expectation) {
        // They come nearly in order: the right place is near the end.
        var index = list.count
        while index > head, list[index - 1].until > expectation.until { index -= 1 }
        list.insert(expectation, at: index)
        keyCount += expectation.keys.count
    }

    /// Takes out the next expectation that ended by `now`; the very next one if that is nil.
    mutating func popFirst(endedBy now: MonotonicTime?) -> Expectation? {
        guard head < list.count else { return nil }
        if let now, list[head].until > now { return nil }
        let first = list[head]
        list[head].keys = []
        head += 1
        keyCount -= first.keys.count
        if head * 2 > list.count {
            list.removeSubrange(..<head)
            head = 0
        }
        return first
    }

    /// Takes out all that concern a holder.
    mutating func remove(at holder: UInt16) -> [Expectation] {
        let taken = list[head...].filter { $0.holder == holder }
        list = list[head...].filter { $0.holder != holder }
        head = 0
        keyCount -= taken.reduce(0) { $0 + $1.keys.count }
        return taken
    }
}
