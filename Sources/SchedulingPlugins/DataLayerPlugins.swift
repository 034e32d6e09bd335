public import Configuration
public import Core
public import Scheduling

/// `metrics-data-source`: where the engines' metrics pages are.
public final class MetricsDataSource: DataLayerPlugin, ConfigurablePlugin {
    /// The type's name.
    public static let type = "metrics-data-source"
    /// Its type and name.
    public let name: PluginName
    /// The path of every engine's page; nil: that of its kind.
    public let path: String?

    /// Parameters: `scheme` (http, the only one), `path`, `interval` (checked; the process's
    /// `--refresh-metrics-interval` counts), `insecureSkipVerify`, `families` (ignored: only what
    /// is read is parsed).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        if let scheme = source.parameters.optional("scheme"), try scheme.string() != "http" {
            throw scheme.error("must be http")
        }
        path = try source.parameters.optional("path").map { (path) throws(ConfigError) in
            let text = try path.string()
            guard text.hasPrefix("/") else { throw path.error("must begin with a slash") }
            return text
        }
        _ = try source.parameters.optional("interval")?.duration()
        _ = try source.parameters.optional("insecureSkipVerify")?.boolean()
        _ = try source.parameters.optional("families")?.list()
    }
}

/// `core-metrics-extractor`: what the engines call the figures that are read from their metrics
/// pages, by the kind of engine, and further figures that become attributes of endpoints.
public final class CoreMetricsExtractor: DataLayerPlugin, ConfigurablePlugin {
    /// The type's name.
    public static let type = "core-metrics-extractor"
    /// Its type and name.
    public let name: PluginName
    /// What it says.
    public let engines: EngineMetricsTable

    /// Parameters: `engineLabelKey` (llm-d.ai/engine-type), `defaultEngine` (vllm),
    /// `engineConfigs`, a list of `name`, the specs `queuedRequestsSpec`, `runningRequestsSpec`,
    /// `kvUsageSpec`, `loraSpec`, `cacheInfoSpec`, `cacheBlockSizeSpec` and `cacheNumBlocksSpec`
    /// (`name` or `name{label=value}`; empty: not read), `cacheBlockSizeLabelName`,
    /// `cacheNumBlocksLabelName`, and `customMetrics`, a list of `attributeKey`, `metricSpec` and
    /// `optional`. What an entry for a known engine does not say stays as it is known.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        var table = EngineMetricsTable()
        if let label = try source.parameters.optional("engineLabelKey")?.string() {
            table.label = label
        }
        for entry in try source.parameters.optional("engineConfigs")?.list() ?? [] {
            let (name, engine) = try Self.engine(entry)
            table.engines[name] = engine
        }
        if let engine = source.parameters.optional("defaultEngine") {
            table.defaultEngine = try engine.string()
            guard table.engines[table.defaultEngine] != nil else {
                let known = table.engines.keys.sorted()
                throw engine.error(
                    "is no engine that is known; "
                        + suggestion(for: table.defaultEngine, among: known))
            }
        }
        engines = table
    }

    private static func engine(
        _ entry: ConfigValue
    ) throws(ConfigError) -> (name: String, engine: EngineMetrics) {
        try entry.section { (section) throws(ConfigError) in
            let name = try section.required("name").string()
            var engine = EngineMetrics.builtIn[name] ?? EngineMetrics()
            let figures: [(String, WritableKeyPath<EngineMetrics, MetricSpec?>)] = [
                ("queuedRequestsSpec", \.queuedRequests),
                ("runningRequestsSpec", \.runningRequests), ("kvUsageSpec", \.kvUsage),
                ("loraSpec", \.lora), ("cacheInfoSpec", \.cacheInfo),
                ("cacheBlockSizeSpec", \.blockSize), ("cacheNumBlocksSpec", \.blockCount),
            ]
            for (key, figure) in figures {
                guard let value = section.optional(key) else { continue }
                engine[keyPath: figure] = try value.string().isEmpty ? nil : spec(value)
            }
            if let label = try section.optional("cacheBlockSizeLabelName")?.string() {
                engine.blockSizeLabel = label
            }
            if let label = try section.optional("cacheNumBlocksLabelName")?.string() {
                engine.blockCountLabel = label
            }
            for entry in try section.optional("customMetrics")?.list() ?? [] {
                engine.custom.append(
                    try entry.section { (section) throws(ConfigError) in
                        _ = try section.optional("optional")?.boolean()
                        return EngineMetrics.Custom(
                            attribute: try section.required("attributeKey").string(),
                            spec: try spec(try section.required("metricSpec")))
                    })
            }
            return (name, engine)
        }
    }

    private static func spec(_ value: ConfigValue) throws(ConfigError) -> MetricSpec {
        let text = try value.string()
        do {
            return try MetricSpec(parsing: text)
        } catch {
            throw value.error(error.problem)
        }
    }
}

extension EndpointPickerConfig {
    /// What the engines' metrics are called and where they are, as the last extractor and the last
    /// source say.
    public var engineMetrics: EngineMetricsTable {
        var table = plugins(as: CoreMetricsExtractor.self).last?.engines ?? EngineMetricsTable()
        if let path = plugins(as: MetricsDataSource.self).compactMap(\.path).last {
            for name in table.engines.keys { table.engines[name]?.path = path }
        }
        return table
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
