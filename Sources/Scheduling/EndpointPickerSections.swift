import Configuration

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
