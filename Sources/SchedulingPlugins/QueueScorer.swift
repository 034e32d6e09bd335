import Core
public import Scheduling

/// `queue-scorer`: fewest waiting requests first, (max - q) / (max - min).
public final class QueueScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "queue-scorer"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Scores by the queue as last scraped.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        scores.scoreFewest(candidates) { context.loads[$0].waitingCount }
    }
}
