import Configuration
import Scheduling

/// `spare-room-scorer`: 1 for endpoints with fewer than `limit` requests, falling to 0 beyond.
final class SpareRoomScorer: Scorer, ConfigurablePlugin {
    static let type = "spare-room-scorer"
    let name: PluginName
    private let limit: Double

    init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        limit = try source.parameters.optional("limit")?.number(in: 1...1e6) ?? 16
    }

    func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        for (i, candidate) in candidates.enumerated() {
            scores[i] = min(1, limit / Double(max(1, context.inFlight[candidate])))
        }
    }
}
