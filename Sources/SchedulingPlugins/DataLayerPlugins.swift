public import Configuration
public import Scheduling

/// `metrics-data-source`: says that load comes from `/metrics` of the engines, as it always does.
public final class MetricsDataSource: DataLayerPlugin, ConfigurablePlugin {
    /// The type's name.
    public static let type = "metrics-data-source"
    /// Its type and name.
    public let name: PluginName

    /// Parameters: `scheme` (http, the only one), `path` (/metrics, the only one), `interval`
    /// (checked; the process's `--refresh-metrics-interval` counts), `insecureSkipVerify`,
    /// `families` (ignored: only what is read is parsed).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        for (key, value) in [("scheme", "http"), ("path", "/metrics")] {
            guard let given = source.parameters.optional(key), try given.string() != value else {
                continue
            }
            throw given.error("must be \(value)")
        }
        _ = try source.parameters.optional("interval")?.duration()
        _ = try source.parameters.optional("insecureSkipVerify")?.boolean()
        _ = try source.parameters.optional("families")?.list()
    }
}

/// `core-metrics-extractor`: the figures that are read from `/metrics`, and further ones that
/// become attributes of endpoints.
public final class CoreMetricsExtractor: DataLayerPlugin, ConfigurablePlugin {
    /// A figure to scrape.
    public struct Metric: Equatable, Sendable {
        /// The attribute that it becomes.
        public var attribute: String
        /// The metric's name.
        public var name: String
        /// The labels that it must have.
        public var labels: [String: String]

        /// Makes a metric.
        public init(attribute: String, name: String, labels: [String: String] = [:]) {
            self.attribute = attribute
            self.name = name
            self.labels = labels
        }
    }

    /// The type's name.
    public static let type = "core-metrics-extractor"
    /// Its type and name.
    public let name: PluginName
    /// The figures besides the standard ones.
    public let customMetrics: [Metric]

    /// Parameters: `engineLabelKey`, `defaultEngine` (vllm, the only one), `engineConfigs`, a list
    /// of `name` (vllm) and `customMetrics`, a list of `attributeKey`, `metricSpec` (`name` or
    /// `name{label=value}`) and `optional`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        _ = try source.parameters.optional("engineLabelKey")?.string()
        if let engine = source.parameters.optional("defaultEngine") { try Self.check(engine) }
        var metrics: [Metric] = []
        for entry in try source.parameters.optional("engineConfigs")?.list() ?? [] {
            try entry.section { (section) throws(ConfigError) in
                try Self.check(try section.required("name"))
                for entry in try section.optional("customMetrics")?.list() ?? [] {
                    metrics.append(try Self.metric(entry))
                }
            }
        }
        customMetrics = metrics
    }

    private static func check(_ engine: ConfigValue) throws(ConfigError) {
        guard try engine.string() == "vllm" else {
            throw engine.error("must be vllm: the metrics of other engines are not read")
        }
    }

    private static func metric(_ entry: ConfigValue) throws(ConfigError) -> Metric {
        try entry.section { (section) throws(ConfigError) in
            let attribute = try section.required("attributeKey").string()
            _ = try section.optional("optional")?.boolean()
            let spec = try section.required("metricSpec")
            let text = try spec.string()
            let parts = text.split(separator: "{", maxSplits: 1)
            guard let name = parts.first, !name.isEmpty else {
                throw spec.error("must be a metric's name, or name{label=value}")
            }
            var labels: [String: String] = [:]
            if parts.count == 2 {
                guard parts[1].hasSuffix("}") else { throw spec.error("has no closing brace") }
                for pair in parts[1].dropLast().split(separator: ",") {
                    let sides = pair.split(separator: "=", maxSplits: 1)
                    guard sides.count == 2 else { throw spec.error("must have label=value") }
                    let value = sides[1].drop { $0 == "\"" }.prefix { $0 != "\"" }
                    labels[String(sides[0].drop { $0 == " " })] = String(value)
                }
            }
            return Metric(attribute: attribute, name: String(name), labels: labels)
        }
    }
}

extension PluginRegistry {
    /// Sources and extractors whose work the process does whether they are declared or not.
    mutating func registerDataLayer() {
        register(MetricsDataSource.self)
        register(CoreMetricsExtractor.self)
        register(TopologyExtractor.self)
        for type in [
            "models-data-source", "models-data-extractor", "endpoint-notification-source",
            "k8s-notification-source",
        ] {
            register(type) { (source) in NoPart(name: source.name) }
        }
    }
}
