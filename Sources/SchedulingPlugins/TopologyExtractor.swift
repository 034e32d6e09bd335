public import Configuration
import Core
public import Scheduling

/// How near two endpoints are, from the loosest to the tightest.
public enum TopologyLevel: String, CaseIterable, Comparable, Sendable {
    case region
    case zone
    case rack
    case host

    /// Whether `left` is the looser one.
    public static func < (left: TopologyLevel, right: TopologyLevel) -> Bool {
        left.order < right.order
    }

    private var order: Int {
        switch self {
        case .region: 0
        case .zone: 1
        case .rack: 2
        case .host: 3
        }
    }
}

/// `topology-extractor`: where endpoints stand, by their labels.
public final class TopologyExtractor: DataLayerPlugin, DataProducer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "topology-extractor"
    /// Its type and name.
    public let name: PluginName

    /// The labels by level, the tightest first.
    private let labels: [(level: TopologyLevel, label: String)]

    /// Parameters: the labels `hostname` (kubernetes.io/hostname), `rack` (none), `zone`
    /// (topology.kubernetes.io/zone) and `region` (topology.kubernetes.io/region).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        var labels: [(TopologyLevel, String)] = []
        for (level, key, standard) in [
            (TopologyLevel.host, "hostname", "kubernetes.io/hostname"), (.rack, "rack", ""),
            (.zone, "zone", "topology.kubernetes.io/zone"),
            (.region, "region", "topology.kubernetes.io/region"),
        ] {
            let label = try source.parameters.optional(key)?.string() ?? standard
            if !label.isEmpty { labels.append((level, label)) }
        }
        self.labels = labels
    }

    /// Labels need no work per request.
    public func produce(into context: inout SchedulingContext) {}

    /// The tightest level that two endpoints share; nil if none is known.
    public func level(
        _ left: Int, _ right: Int, in context: SchedulingContext
    ) -> TopologyLevel? {
        let (left, right) = (context.endpoints[left].server, context.endpoints[right].server)
        return labels.first { entry in
            guard let value = left.labels[entry.label], !value.isEmpty else { return false }
            return right.labels[entry.label] == value
        }?.level
    }
}

extension PluginSource {
    /// The extractor that `topologyProducerName` names.
    mutating func topology() throws(ConfigError) -> TopologyExtractor {
        try plugin(
            "topologyProducerName", default: TopologyExtractor.type, as: TopologyExtractor.self,
            called: "topology extractor")
    }
}
