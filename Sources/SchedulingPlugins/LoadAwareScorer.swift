public import Configuration
import Core
public import Scheduling

/// `load-aware-scorer`: 0.5 for an empty queue, falling to 0 at `threshold` waiting requests.
public final class LoadAwareScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "load-aware-scorer"
    /// Its type and name.
    public let name: PluginName

    private let threshold: Double

    /// Parameters: `threshold` (128).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        threshold = Double(
            try source.parameters.optional("threshold")?.integer(in: 1 ... .max) ?? 128)
    }

    /// Scores by the queue as last scraped.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        for (i, candidate) in candidates.enumerated() {
            let waiting = Double(context.loads[candidate].waitingCount)
            scores[i] = max(0, 0.5 * (1 - waiting / threshold))
        }
    }
}
