public import Configuration
public import Scheduling

/// `prefix-cache-scorer`: the longest cached prefix first,
/// w * min(1, matched tokens / scale)^2 + (1 - w) * matched blocks / total blocks.
///
/// Blocks count by the weight of the tier that holds them.
public final class PrefixCacheScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "prefix-cache-scorer"
    /// The producer that is used unless the configuration names one.
    public static let standardProducer = "approx-prefix-cache-producer"
    /// Its type and name.
    public let name: PluginName

    private let producer: String
    private let matchLengthWeight: Double
    private let matchLengthScaleTokens: Double

    /// Parameters: `prefixMatchInfoProducerName`, `matchLengthWeight` (0, the share w),
    /// `matchLengthScaleTokens` (8192).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        matchLengthWeight =
            try source.parameters.optional("matchLengthWeight")?.number(in: 0...1) ?? 0
        matchLengthScaleTokens = Double(
            try source.parameters.optional("matchLengthScaleTokens")?.integer(in: 1 ... .max)
                ?? 8192)
        producer = try source.plugin(
            "prefixMatchInfoProducerName", default: Self.standardProducer,
            as: (any DataProducer).self, called: "data producer"
        ).name.name
    }

    /// Scores by the producer's match; all 0 if there is none.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let match = context.prefixMatch(by: producer) else { return }
        for (i, candidate) in candidates.enumerated() {
            let blocks = match.weightedBlocks[candidate]
            let length = min(1, blocks * Double(match.blockSize) / matchLengthScaleTokens)
            scores[i] =
                matchLengthWeight * length * length
                + (1 - matchLengthWeight) * blocks / Double(match.totalBlocks)
        }
    }
}
