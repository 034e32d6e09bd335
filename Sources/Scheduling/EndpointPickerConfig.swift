public import Configuration

/// Reads `EndpointPickerConfig`, the configuration of llm-d's endpoint picker.
public enum EndpointPickerConfig {
    /// The group and version, and the group that it had before.
    private static let apiVersions = [
        "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1",
    ]

    /// Makes the scheduler that `text`, in YAML or JSON, describes. `file` is for error messages.
    ///
    /// The defaults are upstream's: requests are read by `openai-parser`, `anthropic-parser`,
    /// `vllmhttp-parser` and `passthrough-parser`, a profile without a picker has `max-score-picker`, a
    /// configuration without profiles has one called `default` with every filter, scorer and
    /// picker, one without a profile handler has `single-profile-handler`.
    public static func scheduler(
        parsing text: String, file: String, registry: PluginRegistry
    ) throws(ConfigError) -> Scheduler {
        let root = try ConfigValue(parsing: text, file: file)
        return try root.section { (section) throws(ConfigError) in
            let apiVersion = try section.required("apiVersion")
            guard apiVersions.contains(try apiVersion.string()) else {
                throw apiVersion.error("must be \(apiVersions[0])")
            }
            let kind = try section.required("kind")
            guard try kind.string() == "EndpointPickerConfig" else {
                throw kind.error("must be EndpointPickerConfig")
            }

            let resolver = PluginResolver(root: root, registry: registry)
            for entry in try section.required("plugins").list() {
                try resolver.declare(entry)
            }
            try resolver.makeAll()

            var profiles: [SchedulingProfile] = []
            if let list = section.optional("schedulingProfiles") {
                for entry in try list.list() {
                    let profile = try profile(entry, resolver: resolver)
                    guard !profiles.contains(where: { $0.name == profile.name }) else {
                        throw entry.error("declares '\(profile.name)' a second time")
                    }
                    profiles.append(profile)
                }
            }
            if profiles.isEmpty {
                profiles = [try standardProfile(of: resolver, section: section)]
            }
            let handler = try profileHandler(of: resolver, section: section)
            if let problem = handler.problem(withProfiles: profiles.map(\.name)) {
                throw section.error("is inconsistent: \(handler.name.name) \(problem)")
            }
            let parsers = try requestParsers(of: resolver, section: &section)
            return Scheduler(
                handler: handler, profiles: profiles, plugins: resolver.plugins, parsers: parsers)
        }
    }

    private static func profile(
        _ entry: ConfigValue, resolver: PluginResolver
    ) throws(ConfigError) -> SchedulingProfile {
        try entry.section { (section) throws(ConfigError) in
            var parts = ProfileParts()
            for reference in try section.required("plugins").list() {
                try reference.section { (section) throws(ConfigError) in
                    let name = try section.required("pluginRef")
                    let weight = section.optional("weight")
                    guard
                        parts.add(
                            try resolver.declared(name),
                            weight: try weight?.number(in: 0...1e9) ?? 1)
                    else {
                        throw name.error(
                            "names a plugin that is no filter, scorer or picker, "
                                + "or a second picker")
                    }
                }
            }
            return try parts.profile(
                name: try section.required("name").string(), resolver: resolver, section: section)
        }
    }

    private static func standardProfile(
        of resolver: PluginResolver, section: ConfigSection
    ) throws(ConfigError) -> SchedulingProfile {
        var parts = ProfileParts()
        for plugin in resolver.plugins {
            _ = parts.add(plugin, weight: 1)
        }
        return try parts.profile(name: "default", resolver: resolver, section: section)
    }

    /// The parsers that `requestHandler` names, else all of the standard ones.
    private static func requestParsers(
        of resolver: PluginResolver, section: inout ConfigSection
    ) throws(ConfigError) -> [any RequestParser] {
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
            for reference in try list.list() {
                let name = try reference.section { (section) throws(ConfigError) in
                    try section.required("pluginRef")
                }
                guard let parser = try resolver.declared(name) as? any RequestParser else {
                    throw name.error("names a plugin that is no parser")
                }
                parsers.append(parser)
            }
            guard !parsers.isEmpty else { throw list.error("must name a parser") }
            return parsers
        }
    }

    private static func profileHandler(
        of resolver: PluginResolver, section: ConfigSection
    ) throws(ConfigError) -> any ProfileHandler {
        let handlers = resolver.plugins.compactMap { $0 as? any ProfileHandler }
        guard handlers.count <= 1 else {
            let names = handlers.map(\.name.name).joined(separator: ", ")
            throw section.error("has more than one profile handler: \(names)")
        }
        let standard = "single-profile-handler"
        if let handler = handlers.first { return handler }
        guard let handler = try resolver.declaredOrStandard(standard) as? any ProfileHandler else {
            throw section.error("has no profile handler")
        }
        return handler
    }
}

/// The plugins of a profile by what they do there.
private struct ProfileParts {
    var filters: [any Filter] = []
    var scorers: [SchedulingProfile.WeightedScorer] = []
    var picker: (any Picker)?

    /// Returns false if the plugin has no part in a profile, or is a second picker.
    mutating func add(_ plugin: any Plugin, weight: Double) -> Bool {
        var used = false
        if let filter = plugin as? any Filter {
            filters.append(filter)
            used = true
        }
        if let scorer = plugin as? any Scorer {
            scorers.append(SchedulingProfile.WeightedScorer(scorer, weight: weight))
            used = true
        }
        if let plugin = plugin as? any Picker, picker == nil {
            picker = plugin
            used = true
        }
        return used
    }

    func profile(
        name: String, resolver: PluginResolver, section: ConfigSection
    ) throws(ConfigError) -> SchedulingProfile {
        if let picker {
            return SchedulingProfile(name: name, filters: filters, scorers: scorers, picker: picker)
        }
        let standard = "max-score-picker"
        guard let picker = try resolver.declaredOrStandard(standard) as? any Picker else {
            throw section.error("has a profile '\(name)' without a picker")
        }
        return SchedulingProfile(name: name, filters: filters, scorers: scorers, picker: picker)
    }
}
