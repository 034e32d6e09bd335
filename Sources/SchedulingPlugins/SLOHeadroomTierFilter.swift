public import Configuration
public import Scheduling

/// `slo-headroom-tier-filter`: the endpoints where the request is expected to meet its latency
/// objectives; now and then the others, so that predictions stay true for them.
public final class SLOHeadroomTierFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "slo-headroom-tier-filter"
    /// Its type and name.
    public let name: PluginName

    private let epsilon: Double

    /// Parameters: `epsilonExploreNeg` (0.01).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        epsilon = try source.parameters.optional("epsilonExploreNeg")?.number(in: 0...1) ?? 0.01
        try source.needs(PredictedLatencyProducer.type)
    }

    /// Keeps all where there is no objective, no prediction, or only one tier.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        let request = context.request
        guard request.ttftObjective != nil || request.tpotObjective != nil else { return }
        func isPositive(_ candidate: Int) -> Bool {
            LatencyHeadroom.isMet(at: candidate, in: context) ?? true
        }
        guard candidates.contains(where: isPositive), !candidates.allSatisfy(isPositive) else {
            return
        }
        var random = context.random(salt: name.name)
        let explores = Double.random(in: 0..<1, using: &random) < epsilon
        candidates.removeAll { isPositive($0) == explores }
    }
}
