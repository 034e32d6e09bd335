public import Configuration
public import Scheduling

/// `active-request-scorer`: fewest requests in flight first, of this router and those that tell it;
/// (max - n) / max * maxBusyScore, and 1 for an idle endpoint.
public final class ActiveRequestScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "active-request-scorer"
    /// Its type and name.
    public let name: PluginName

    private let idleThreshold: Int
    private let maxBusyScore: Double

    /// Parameters: `idleThreshold` (0, the requests up to which an endpoint counts as idle),
    /// `maxBusyScore` (1).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        idleThreshold =
            try source.parameters.optional("idleThreshold")?.integer(in: 0 ... .max) ?? 0
        maxBusyScore = try source.parameters.optional("maxBusyScore")?.number(in: 0...1) ?? 1
    }

    /// Scores by the count of requests.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        var most = 0
        for candidate in candidates {
            most = max(most, context.inFlight[candidate])
        }
        for (i, candidate) in candidates.enumerated() {
            let count = context.inFlight[candidate]
            scores[i] =
                count <= idleThreshold
                ? 1 : Double(most - count) / Double(most) * maxBusyScore
        }
    }
}
