public import Configuration

/// `EndpointPickerConfig`, the configuration of llm-d's endpoint picker, loaded.
public struct EndpointPickerConfig {
    /// The plugins, put together.
    public let scheduler: Scheduler
    /// The features that the configuration switches on or off, by name.
    public let featureGates: [String: Bool]
    /// The section `flowControl`, to be read by whoever controls the flow; nil if there is none.
    public let flowControl: ConfigValue?
    /// The section `saturationDetector`, the older place of the one in `flowControl`.
    public let saturationDetector: ConfigValue?

    private let resolver: PluginResolver

    /// The group and version, and the group that it had before.
    private static let apiVersions = [
        "llm-d.ai/v1alpha1", "inference.networking.x-k8s.io/v1alpha1",
    ]
    /// The features that can be switched; `populate-non-leader-datastore` has no meaning here,
    /// where every replica keeps its own.
    private static let knownGates = ["flowControl", "populate-non-leader-datastore"]

    /// What a configuration without plugins and profiles stands for, by upstream.
    private static let standardPlugins = """
        plugins:
        - {type: queue-scorer}
        - {type: kv-cache-utilization-scorer}
        - {type: prefix-cache-scorer}
        schedulingProfiles:
        - name: default
          plugins:
          - {pluginRef: queue-scorer, weight: 2}
          - {pluginRef: kv-cache-utilization-scorer, weight: 2}
          - {pluginRef: prefix-cache-scorer, weight: 3}
        """

    /// Makes the scheduler that `text`, in YAML or JSON, describes. `file` is for error messages.
    public static func scheduler(
        parsing text: String, file: String, registry: PluginRegistry
    ) throws(ConfigError) -> Scheduler {
        try EndpointPickerConfig(parsing: text, file: file, registry: registry).scheduler
    }

    /// Loads `text`, in YAML or JSON. `file` is for error messages.
    ///
    /// The defaults are upstream's: a profile without a picker has `max-score-picker`, a
    /// configuration without profiles has one called `default` with every filter, scorer and
    /// picker, one without a profile handler has `single-profile-handler`, and one without plugins
    /// scores queue, KV cache and prefix with weights 2, 2 and 3. A producer that a plugin reads
    /// and that is not declared is made with its defaults. Requests are read by `openai-parser`,
    /// `anthropic-parser`, `vllmhttp-parser` and `passthrough-parser`.
    public init(
        parsing text: String, file: String, registry: PluginRegistry
    ) throws(ConfigError) {
        let root = try ConfigValue(parsing: text, file: file)
        self = try root.section { (section) throws(ConfigError) in
            try EndpointPickerConfig(&section, of: root, registry: registry)
        }
    }

    private init(
        _ section: inout ConfigSection, of root: ConfigValue, registry: PluginRegistry
    ) throws(ConfigError) {
        let apiVersion = try section.required("apiVersion")
        guard Self.apiVersions.contains(try apiVersion.string()) else {
            throw apiVersion.error("must be \(Self.apiVersions[0])")
        }
        let kind = try section.required("kind")
        guard try kind.string() == "EndpointPickerConfig" else {
            throw kind.error("must be EndpointPickerConfig")
        }
        let resolver = PluginResolver(root: root, registry: registry)
        self.resolver = resolver
        featureGates = try Self.gates(section.optional("featureGates"))

        let profiles = try Self.profiles(&section, resolver)
        let handler = try Self.profileHandler(of: resolver, section: section)
        if let problem = handler.problem(withProfiles: profiles.map(\.name)) {
            throw section.error("is inconsistent: \(handler.name.name) \(problem)")
        }

        try Self.checkDataLayer(section.orEmpty("dataLayer"), resolver)
        flowControl = section.optional("flowControl")
        saturationDetector = section.optional("saturationDetector")
        scheduler = Scheduler(
            handler: handler, profiles: profiles, plugins: resolver.plugins,
            parsers: try Self.requestParsers(&section, resolver))
    }

    /// The types and parameters of the declared plugins, in their order.
    public var declarations: [(type: String, parameters: ConfigValue)] { resolver.allDeclared }

    /// The type and the parameters of the declared plugin that `reference` names, or of the type
    /// of that name without parameters.
    public func declaration(
        _ reference: ConfigValue
    ) throws(ConfigError) -> (type: String, parameters: ConfigValue) {
        let name = try reference.string()
        if let found = declaration(named: name) { return found }
        throw reference.error(
            "names no plugin: '\(name)'; \(suggestion(for: name, among: resolver.names))")
    }

    /// The same by the name; nil if it is neither a declared plugin nor a type.
    public func declaration(named name: String) -> (type: String, parameters: ConfigValue)? {
        resolver.declaration(named: name)
    }

    /// The parameters of a plugin in a form that tells equal ones by; nil if there is no plugin of
    /// that name. Members called `omitted` are left out, wherever they are.
    public func parameters(ofPlugin name: String, omitting omitted: String) -> String? {
        resolver.parameters[name]?.canonicalText(omitting: omitted)
    }

    /// The declared plugins of a kind, in their order.
    public func plugins<Kind>(as kind: Kind.Type) -> [Kind] {
        resolver.plugins.compactMap { $0 as? Kind }
    }

    private static func profiles(
        _ section: inout ConfigSection, _ resolver: PluginResolver
    ) throws(ConfigError) -> [SchedulingProfile] {
        var plugins = try section.optional("plugins")?.list() ?? []
        var entries = try section.optional("schedulingProfiles")?.list() ?? []
        if plugins.isEmpty, entries.isEmpty {
            let standard = try ConfigValue(parsing: standardPlugins, file: "the standard plugins")
            (plugins, entries) = try standard.section { (section) throws(ConfigError) in
                (
                    try section.required("plugins").list(),
                    try section.required("schedulingProfiles").list()
                )
            }
        }
        for entry in plugins { try resolver.declare(entry) }
        try resolver.makeAll()

        var profiles: [SchedulingProfile] = []
        for entry in entries {
            let profile = try profile(entry, resolver: resolver)
            guard !profiles.contains(where: { $0.name == profile.name }) else {
                throw entry.error("declares '\(profile.name)' a second time")
            }
            profiles.append(profile)
        }
        if profiles.isEmpty {
            profiles = [try standardProfile(of: resolver, section: section)]
        }
        return profiles
    }

    private static func gates(_ list: ConfigValue?) throws(ConfigError) -> [String: Bool] {
        var gates: [String: Bool] = [:]
        for entry in try list?.list() ?? [] {
            let parts = try entry.string().split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts[0])
            guard knownGates.contains(name) else {
                throw entry.error(
                    "is no known feature: '\(name)'; \(suggestion(for: name, among: knownGates))")
            }
            guard let value = parts.count == 1 ? true : Bool(String(parts[1])) else {
                throw entry.error("must be \(name), \(name)=true or \(name)=false")
            }
            gates[name] = value
        }
        return gates
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
