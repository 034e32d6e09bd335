import Core
public import Scheduling

/// `running-requests-size-scorer`: fewest running requests first, (max - n) / (max - min).
public final class RunningRequestsScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "running-requests-size-scorer"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Scores by the running requests as last scraped.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        scores.scoreFewest(candidates) { context.loads[$0].runningCount }
    }
}
