import Foundation

extension Double {
    /// The natural logarithm.
    var logarithm: Double { log(self) }

    /// This number to the power of `exponent`.
    func power(_ exponent: Double) -> Double { pow(self, exponent) }
}

extension [Double] {
    /// The value below which `fraction` of the sorted elements lie (nearest rank); nil if empty.
    ///
    /// The elements must be in ascending order.
    func percentile(_ fraction: Double) -> Double? {
        guard !isEmpty else { return nil }
        let rank = Int((fraction * Double(count)).rounded(.up))
        return self[Swift.min(Swift.max(rank, 1), count) - 1]
    }
}

/// A number with a fixed count of decimal places.
func fixed(_ value: Double, places: Int) -> String {
    String(format: "%.\(places)f", value)
}
