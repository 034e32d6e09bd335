public import Configuration
public import Scheduling

/// `topology-affinity-filter`: endpoints near the one that was picked for an earlier stage.
public final class TopologyAffinityFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "topology-affinity-filter"
    /// Its type and name.
    public let name: PluginName

    private let topology: TopologyExtractor
    private let minAffinity: TopologyLevel

    /// Parameters: `minAffinity` (host; or rack, zone, region), `topologyProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        minAffinity =
            try source.parameters.optional("minAffinity")?.choice(of: TopologyLevel.self) ?? .host
        topology = try source.topology()
    }

    /// Keeps all where there is no earlier pick, or none is near enough.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        guard let peer = context.peer else { return }
        func isNear(_ candidate: Int) -> Bool {
            topology.level(peer, candidate, in: context).map { $0 >= minAffinity } ?? false
        }
        guard candidates.contains(where: isNear) else { return }
        candidates.removeAll { !isNear($0) }
    }
}
