import Core
public import Scheduling

/// `lora-affinity-scorer`: 1 where the adapter is in use, 0.8 where there is room for another,
/// 0.6 where requests wait for it, 0 where all places are taken.
public final class LoRAAffinityScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "lora-affinity-scorer"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Scores by the adapters as last scraped; 0 for an endpoint that tells of none.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        let adapter = context.request.targetModel
        for (i, candidate) in candidates.enumerated() {
            guard let lora = context.loads[candidate].lora else { continue }
            scores[i] =
                if lora.running.contains(adapter) {
                    1
                } else if lora.running.count + lora.waiting.count < lora.maximumCount {
                    0.8
                } else if lora.waiting.contains(adapter) {
                    0.6
                } else {
                    0
                }
        }
    }
}
