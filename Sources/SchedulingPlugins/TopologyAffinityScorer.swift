public import Configuration
public import Scheduling

/// `topology-affinity-scorer`: nearest to the endpoint that was picked for an earlier stage
/// first: same host 1, rack 0.2, zone 0.05, region 0.02.
public final class TopologyAffinityScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "topology-affinity-scorer"
    /// Its type and name.
    public let name: PluginName

    private let topology: TopologyExtractor

    /// Parameters: `topologyProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        topology = try source.topology()
    }

    /// All 0 where there is no earlier pick.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let peer = context.peer else { return }
        for (i, candidate) in candidates.enumerated() {
            scores[i] =
                switch topology.level(peer, candidate, in: context) {
                case .host: 1
                case .rack: 0.2
                case .zone: 0.05
                case .region: 0.02
                case nil: 0
                }
        }
    }
}
