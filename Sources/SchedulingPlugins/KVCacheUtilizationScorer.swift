import Core
public import Scheduling

/// `kv-cache-utilization-scorer`: most free KV cache first, 1 - use.
public final class KVCacheUtilizationScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "kv-cache-utilization-scorer"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Scores by the KV cache use as last scraped.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        for (i, candidate) in candidates.enumerated() {
            scores[i] = 1 - context.loads[candidate].kvUsage
        }
    }
}
