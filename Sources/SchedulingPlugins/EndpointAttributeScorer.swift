public import Configuration
public import Scheduling

/// `endpoint-attribute-scorer`: endpoints by a figure that they tell, highest or lowest first,
/// spread over the range of the candidates or a fixed one. 0 for one that has not told it.
public final class EndpointAttributeScorer: Scorer, AttributeReader, ConfigurablePlugin {
    /// The type's name.
    public static let type = "endpoint-attribute-scorer"
    /// Its type and name.
    public let name: PluginName
    /// The attribute, unless it is a standard one.
    public var scrapedAttribute: String? { attribute.scrapedName }

    private enum Algorithm: String, CaseIterable {
        case lowerIsBetter = "linear_lower_is_better"
        case higherIsBetter = "linear_higher_is_better"
    }

    private let attribute: EndpointAttribute
    private let algorithm: Algorithm
    private let fixedRange: ClosedRange<Double>?

    /// Parameters: `attributeKey`, `algorithm.type` (linear_lower_is_better or
    /// linear_higher_is_better), `algorithm.normalization`: `adaptiveRange` (the default) or
    /// `fixedRange` {min, max}.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        attribute = EndpointAttribute(try source.parameters.required("attributeKey").string())
        (algorithm, fixedRange) = try source.parameters.required("algorithm").section {
            (section) throws(ConfigError) in
            let type = try section.required("type").choice(of: Algorithm.self)
            let range = try section.orEmpty("normalization").section {
                (section) throws(ConfigError) in
                _ = section.optional("adaptiveRange")
                return try section.optional("fixedRange").map { (value) throws(ConfigError) in
                    try Self.range(value)
                }
            }
            return (type, range)
        }
    }

    private static func range(_ value: ConfigValue) throws(ConfigError) -> ClosedRange<Double> {
        try value.section { (section) throws(ConfigError) in
            let low = try section.required("min").number()
            let high = try section.required("max")
            guard try high.number() > low else { throw high.error("must be above min") }
            return low...(try high.number())
        }
    }

    /// (value - min) / (max - min), or 1 minus that; 1 if all are equal.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        var low = Double.infinity
        var high = -Double.infinity
        if let fixedRange {
            (low, high) = (fixedRange.lowerBound, fixedRange.upperBound)
        } else {
            for candidate in candidates {
                guard let value = attribute.value(context.loads[candidate]) else { continue }
                (low, high) = (min(low, value), max(high, value))
            }
        }
        for (i, candidate) in candidates.enumerated() {
            guard let value = attribute.value(context.loads[candidate]) else { continue }
            guard high > low else {
                scores[i] = 1
                continue
            }
            let share = (min(max(value, low), high) - low) / (high - low)
            scores[i] = algorithm == .higherIsBetter ? share : 1 - share
        }
    }
}
