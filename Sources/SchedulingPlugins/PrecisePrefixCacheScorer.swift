public import Configuration
public import Scheduling

/// `precise-prefix-cache-scorer`: deprecated; a `precise-prefix-cache-producer` of its own and a
/// `prefix-cache-scorer` that reads it.
public final class PrecisePrefixCacheScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "precise-prefix-cache-scorer"
    /// Its type and name.
    public let name: PluginName

    private let producer: String

    /// Parameters: those of `precise-prefix-cache-producer`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        producer = try source.make(
            "precise-prefix-cache-producer", named: "\(source.name.name)/producer"
        ).name.name
    }

    /// Matched blocks by the weight of their tier, over all blocks.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let match = context.prefixMatch(by: producer) else { return }
        for (i, candidate) in candidates.enumerated() {
            scores[i] = match.weightedBlocks[candidate] / Double(match.totalBlocks)
        }
    }
}
