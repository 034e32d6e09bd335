public import Configuration

/// What a factory makes a plugin from.
public struct PluginSource {
    /// The plugin's type and name.
    public let name: PluginName
    /// Its parameters; a parameter that the factory does not ask for is an error.
    public var parameters: ConfigSection
    /// Whether the configuration declares it; false of one that another plugin needs.
    public let isDeclared: Bool

    let resolver: PluginResolver

    /// Makes a plugin of another type from the same parameters under the name `name`, for a type
    /// that stands for several.
    public mutating func make(_ type: String, named name: String) throws(ConfigError) -> any Plugin
    {
        try resolver.make(type, named: name, from: &self)
    }

    /// Has a plugin of a type made, whose findings this one reads: with its defaults unless the
    /// configuration declares one. Nothing happens if the type is not registered.
    public func needs(_ type: String) throws(ConfigError) {
        try resolver.makeSure(of: type)
    }

    /// The plugin that a parameter names.
    public func plugin<Kind>(
        _ reference: ConfigValue, as kind: Kind.Type, called description: String
    ) throws(ConfigError) -> Kind {
        let plugin = try resolver.declared(reference)
        guard let plugin = plugin as? Kind else {
            throw reference.error("names '\(plugin.name.name)', which is no \(description)")
        }
        return plugin
    }

    /// The plugin that `parameter` names if it is given, else the one called `standard`, which is
    /// made with its defaults if the configuration does not declare it.
    public mutating func plugin<Kind>(
        _ parameter: String, default standard: String, as kind: Kind.Type,
        called description: String
    ) throws(ConfigError) -> Kind {
        if let reference = parameters.optional(parameter) {
            return try plugin(reference, as: kind, called: description)
        }
        guard let plugin = try resolver.declaredOrStandard(standard) as? Kind else {
            throw parameters.error(
                "needs a '\(parameter)': there is no \(description) '\(standard)'")
        }
        return plugin
    }
}

/// A plugin that needs nothing but its parameters.
public protocol ConfigurablePlugin: Plugin {
    /// The name of the type in configurations.
    static var type: String { get }

    /// Makes an instance; asks `source` for every parameter that the type has.
    init(_ source: inout PluginSource) throws(ConfigError)
}

/// The plugin types that a configuration may name.
public struct PluginRegistry: Sendable {
    /// Makes a plugin from its parameters.
    public typealias Factory =
        @Sendable (inout PluginSource) throws(ConfigError) -> any Plugin

    private var factories: [String: Factory] = [:]
    private var reserved: Set<String> = []
    private var refusals: [String: String] = [:]

    /// Makes a registry without types.
    public init() {}

    /// Adds a type. The last registration of a type counts.
    public mutating func register(_ type: String, _ factory: @escaping Factory) {
        factories[type] = factory
    }

    /// Adds a type that needs nothing but its parameters.
    public mutating func register<Kind: ConfigurablePlugin>(_ kind: Kind.Type) {
        register(kind.type) { (source) throws(ConfigError) in try Kind(&source) }
    }

    /// Lets configurations declare plugins of types that are made elsewhere, by
    /// ``EndpointPickerConfig/declaration(_:)``.
    public mutating func reserve(_ types: some Sequence<String>) {
        reserved.formUnion(types)
    }

    /// Tells who declares a plugin of a type that upstream has why it is not here; `reason` is the
    /// end of a sentence that starts with the type.
    public mutating func refuse(_ type: String, _ reason: String) {
        refusals[type] = reason
    }

    /// Makes another name of a registered type known.
    public mutating func alias(_ alias: String, of type: String) {
        factories[alias] = factories[type]
    }

    /// The types that may be declared.
    public var types: [String] { factories.keys + reserved.filter { factories[$0] == nil } }

    func factory(of type: String) -> Factory? { factories[type] }
    func isReserved(_ type: String) -> Bool { reserved.contains(type) }
    func refusal(of type: String) -> String? { refusals[type] }
}
