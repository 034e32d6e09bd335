public import Configuration
public import Scheduling

/// `endpoint-attribute-filter`: endpoints by a figure that they tell: above or below a threshold,
/// in a range, the first k, or beyond a percentile.
public final class EndpointAttributeFilter: Filter, AttributeReader, ConfigurablePlugin {
    /// The type's name.
    public static let type = "endpoint-attribute-filter"
    /// Its type and name.
    public let name: PluginName
    /// The attribute, unless it is a standard one.
    public var scrapedAttribute: String? { attribute.scrapedName }

    private enum Missing: String, CaseIterable {
        case pass = "Pass"
        case fail = "Fail"
    }

    private enum Comparison: String, CaseIterable {
        case lessThan = "LessThan"
        case lessThanOrEqual = "LessThanOrEqual"
        case greaterThan = "GreaterThan"
        case greaterThanOrEqual = "GreaterThanOrEqual"
        case equal = "Equal"
        case notEqual = "NotEqual"

        func holds(_ left: Double, _ right: Double) -> Bool {
            switch self {
            case .lessThan: left < right
            case .lessThanOrEqual: left <= right
            case .greaterThan: left > right
            case .greaterThanOrEqual: left >= right
            case .equal: left == right
            case .notEqual: left != right
            }
        }
    }

    private enum Algorithm {
        case threshold(Comparison, Double)
        case range(ClosedRange<Double>)
        case topK(Int, higherIsBetter: Bool)
        case percentile(Double, higherIsBetter: Bool)
    }

    private enum AlgorithmType: String, CaseIterable {
        case threshold
        case range
        case topK
        case percentile
    }

    private let attribute: EndpointAttribute
    private let passesMissing: Bool
    private let fallbackOnEmpty: Bool
    private let algorithm: Algorithm

    /// Parameters: `attribute`, `onMissing` (Pass, or Fail), `fallbackOnEmpty` (false),
    /// `algorithm.type` and the section of its name: `threshold` {operator, value}, `range`
    /// {min, max}, `topK` {k, higherIsBetter (true)}, `percentile` {percentile, higherIsBetter}.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        attribute = EndpointAttribute(try source.parameters.required("attribute").string())
        passesMissing =
            try source.parameters.optional("onMissing")?.choice(of: Missing.self) != .fail
        fallbackOnEmpty = try source.parameters.optional("fallbackOnEmpty")?.boolean() ?? false
        algorithm = try source.parameters.required("algorithm").section {
            (section) throws(ConfigError) in
            let type = try section.required("type").choice(of: AlgorithmType.self)
            return try section.required(type.rawValue).section { (section) throws(ConfigError) in
                try Self.algorithm(type, &section)
            }
        }
    }

    private static func algorithm(
        _ type: AlgorithmType, _ section: inout ConfigSection
    ) throws(ConfigError) -> Algorithm {
        switch type {
        case .threshold:
            return .threshold(
                try section.required("operator").choice(of: Comparison.self),
                try section.required("value").number())
        case .range:
            let low = try section.required("min").number()
            let high = try section.required("max")
            guard try high.number() >= low else { throw high.error("must be at least min") }
            return .range(low...(try high.number()))
        case .topK:
            return .topK(
                try section.required("k").integer(in: 1 ... .max),
                higherIsBetter: try section.optional("higherIsBetter")?.boolean() ?? true)
        case .percentile:
            return .percentile(
                try section.required("percentile").number(in: 0...100),
                higherIsBetter: try section.optional("higherIsBetter")?.boolean() ?? true)
        }
    }

    /// Keeps those that pass, or all if that is none and it may.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        let passes = test(for: candidates, in: context)
        if fallbackOnEmpty, !candidates.contains(where: passes) { return }
        candidates.removeAll { !passes($0) }
    }

    private func test(
        for candidates: [Int], in context: SchedulingContext
    ) -> (Int) -> Bool {
        func value(_ candidate: Int) -> Double? { attribute.value(context.loads[candidate]) }
        func known(_ holds: @escaping (Double) -> Bool) -> (Int) -> Bool {
            { candidate in value(candidate).map(holds) ?? self.passesMissing }
        }
        switch algorithm {
        case .threshold(let comparison, let limit):
            return known { comparison.holds($0, limit) }
        case .range(let range): return known { range.contains($0) }
        case .topK(let count, let higherIsBetter):
            let ranked = candidates.filter { value($0) != nil }.sorted {
                let (left, right) = (value($0) ?? 0, value($1) ?? 0)
                return higherIsBetter ? left > right : left < right
            }
            let best = Set(ranked.prefix(count))
            return { value($0) == nil ? self.passesMissing : best.contains($0) }
        case .percentile(let percentile, let higherIsBetter):
            let values = candidates.compactMap(value).sorted()
            guard !values.isEmpty else { return { _ in self.passesMissing } }
            // Nearest rank: the value at ceil(P / 100 * N), counted from 1.
            let rank = (percentile / 100 * Double(values.count)).rounded(.up)
            let cutoff = values[max(1, Int(rank)) - 1]
            return known { higherIsBetter ? $0 >= cutoff : $0 <= cutoff }
        }
    }
}
