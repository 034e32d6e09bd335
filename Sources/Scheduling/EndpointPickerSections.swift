import Configuration

/// What a scheduler is told beside its plugins.
public struct EndpointPickerSettings: Sendable {
    /// Whether requests wait in queues of flow control. If not, requests of a priority below 0
    /// are refused while the pool is full.
    public var admitsByFlowControl = false
    /// Says how full the pool is; nil: nobody does.
    public var saturation: (any SaturationGauge)?
    /// Those that say what requests are, by configured order; none leaves every body unread.
    public var parsers: [any RequestParser] = []

    /// The defaults.
    public init() {}
}

/// A data source, an extractor or a discovery of the section `dataLayer`.
public protocol DataLayerPlugin: Plugin {}

extension EndpointPickerConfig {
    /// Checks what the section says: where load, models and endpoints come from is decided by
    /// the process, so there is nothing to hand on but that the plugins exist.
    static func checkDataLayer(
        _ value: ConfigValue, _ resolver: PluginResolver
    ) throws(ConfigError) {
        try value.section { (section) throws(ConfigError) in
            _ = try section.optional("injectDefaults")?.boolean()
            for entry in try section.optional("sources")?.list() ?? [] {
                try entry.section { (section) throws(ConfigError) in
                    try check(try section.required("pluginRef"), resolver)
                    for entry in try section.optional("extractors")?.list() ?? [] {
                        try checkReference(entry, resolver)
                    }
                }
            }
            if let discovery = section.optional("discovery") {
                try checkReference(discovery, resolver)
            }
            for key in ["peerDiscovery", "crossReplicaSyncerPluginRef", "crossReplicaSyncInterval"]
            {
                if let value = section.optional(key) {
                    throw value.error(
                        "is not supported: replicas share the index of "
                            + "precise-prefix-cache-producer; docs/plugins.md has what is")
                }
            }
        }
    }

    private static func checkReference(
        _ entry: ConfigValue, _ resolver: PluginResolver
    ) throws(ConfigError) {
        try entry.section { (section) throws(ConfigError) in
            try check(try section.required("pluginRef"), resolver)
        }
    }

    private static func check(
        _ reference: ConfigValue, _ resolver: PluginResolver
    ) throws(ConfigError) {
        let plugin = try resolver.declared(reference)
        // Producers extract from sources, too: KV events and departures of endpoints.
        guard plugin is any DataLayerPlugin || plugin is any DataProducer else {
            throw reference.error("names '\(plugin.name.name)', which is of no data layer")
        }
    }

    /// What says how full the pool is: the detector of the deprecated top-level section or of
    /// `flowControl`, else `utilization-detector`.
    static func gauge(
        _ old: ConfigValue?, _ flowControl: ConfigValue?, _ resolver: PluginResolver
    ) throws(ConfigError) -> (any SaturationGauge)? {
        var reference: ConfigValue?
        if let old {
            reference = try old.section { (section) throws(ConfigError) in
                try section.required("pluginRef")
            }
        } else if let detector = flowControl?.member("saturationDetector") {
            reference = detector.member("pluginRef")
        }
        if let reference {
            // Upstream's own name needs no declaration.
            let standard = "utilization-detector"
            let isStandard = try reference.string() == standard && !resolver.isDeclared(standard)
            let plugin =
                isStandard
                ? try resolver.declaredOrStandard(standard) : try resolver.declared(reference)
            guard let gauge = plugin as? any SaturationGauge else {
                throw reference.error("names no saturation detector")
            }
            return gauge
        }
        let declared = resolver.plugins.compactMap { $0 as? any SaturationGauge }
        if let only = declared.first { return only }
        return try resolver.declaredOrStandard("utilization-detector") as? any SaturationGauge
    }

    /// The parsers that `requestHandler` names, or the one of the deprecated `parser`; else all of
    /// upstream's.
    static func requestParsers(
        _ section: inout ConfigSection, _ resolver: PluginResolver
    ) throws(ConfigError) -> [any RequestParser] {
        if let parser = section.optional("parser") { return [try Self.parser(parser, resolver)] }
        guard let handler = section.optional("requestHandler") else {
            var parsers: [any RequestParser] = []
            for type in ["openai", "anthropic", "vllmhttp", "passthrough"] {
                let parser = try resolver.declaredOrStandard("\(type)-parser")
                if let parser = parser as? any RequestParser { parsers.append(parser) }
            }
            return parsers
        }
        return try handler.section { (section) throws(ConfigError) in
            let list = try section.required("parsers")
            var parsers: [any RequestParser] = []
            for entry in try list.list() { parsers.append(try parser(entry, resolver)) }
            guard !parsers.isEmpty else { throw list.error("must name a parser") }
            return parsers
        }
    }

    private static func parser(
        _ entry: ConfigValue, _ resolver: PluginResolver
    ) throws(ConfigError) -> any RequestParser {
        let reference = try entry.section { (section) throws(ConfigError) in
            try section.required("pluginRef")
        }
        guard let parser = try resolver.declared(reference) as? any RequestParser else {
            throw reference.error("names a plugin that is no parser")
        }
        return parser
    }
}
