extension ConfigValue {
    /// A Kubernetes quantity that is not negative, rounded up to a whole number: `5000`, `5k`,
    /// `1G`, `1.5Gi`, `1e3`.
    public func quantity(in range: ClosedRange<Int> = 0...Int.max) throws(ConfigError) -> Int {
        guard let value = Int(quantity: try string()) else {
            throw error("must be a quantity such as 5000, 5k or 1Gi")
        }
        guard range.contains(value) else {
            throw error("must be at least \(range.lowerBound), not \(value)")
        }
        return value
    }
}

extension Int {
    /// Parses the decimal form of a Kubernetes quantity; nil if it is none, is negative or does
    /// not fit. A fraction is rounded up.
    public init?(quantity text: String) {
        let factors: [(String, Double)] = [
            ("Ki", 0x1p10), ("Mi", 0x1p20), ("Gi", 0x1p30), ("Ti", 0x1p40), ("Pi", 0x1p50),
            ("Ei", 0x1p60), ("m", 1e-3), ("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12),
            ("P", 1e15), ("E", 1e18),
        ]
        var digits = text[...]
        var factor = 1.0
        if let (suffix, value) = factors.first(where: { text.hasSuffix($0.0) }) {
            digits = text.dropLast(suffix.count)
            factor = value
        }
        // Double also reads hexadecimal, signs, `inf` and `nan`.
        let allowed: Set<Character> = [".", "e", "E", "+", "-"]
        guard let first = digits.first, first.isASCII, first.isNumber,
            digits.allSatisfy({ $0.isASCII && ($0.isNumber || allowed.contains($0)) }),
            let number = Double(digits)
        else { return nil }
        self.init(exactly: (number * factor).rounded(.up))
    }
}
