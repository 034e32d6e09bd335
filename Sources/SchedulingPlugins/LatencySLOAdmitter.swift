public import Configuration
import Core
public import Scheduling

/// `latency-slo-admitter`: refuses requests that may be shed where no endpoint is expected to
/// meet their latency objectives, unless one is idle or nearly empty.
public final class LatencySLOAdmitter: Admitter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "latency-slo-admitter"
    /// Its type and name.
    public let name: PluginName

    /// The use of the KV cache below which an endpoint is as good as new.
    private static let coldKVUsage = 0.02

    /// Has no parameters.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        try source.needs(PredictedLatencyProducer.type)
    }

    /// Lets a request through of which nothing can be said.
    public func admit(
        _ candidates: [Int], in context: SchedulingContext
    ) throws(SchedulingFailure) {
        let request = context.request
        guard request.priority < 0, request.ttftObjective != nil || request.tpotObjective != nil,
            !candidates.isEmpty
        else { return }
        let isPossible = candidates.contains { candidate in
            context.inFlight[candidate] == 0 && context.loads[candidate].runningCount == 0
                || context.loads[candidate].kvUsage < Self.coldKVUsage
                || LatencyHeadroom.isMet(at: candidate, in: context) ?? true
        }
        guard !isPossible else { return }
        throw .refused(
            by: name.name,
            .dropped(
                status: 429, reason: .saturated,
                "No model server is expected to meet the latency objectives."))
    }
}
