public import Configuration

/// The plugins of a configuration, for sections that refer to them.
public struct PluginReferences {
    let resolver: PluginResolver

    /// The plugin that `reference` names: a declared one, or the one that a type's defaults make.
    public func plugin(_ reference: ConfigValue) throws(ConfigError) -> any Plugin {
        let name = try reference.string()
        if let plugin = try resolver.declaredOrStandard(name) { return plugin }
        throw reference.error(
            "names no plugin: '\(name)'; \(suggestion(for: name, among: resolver.names))")
    }
}

/// Makes the plugins of one configuration, those that others refer to first.
final class PluginResolver {
    private struct Declaration {
        var name: PluginName
        var parameters: ConfigValue
        var entry: ConfigValue
    }

    private let registry: PluginRegistry
    private let root: ConfigValue
    private var declarations: [Declaration] = []
    private var made: [String: any Plugin] = [:]
    private var inTheMaking: Set<String> = []

    /// Every plugin made so far: a plugin stands behind those that it refers to.
    private(set) var plugins: [any Plugin] = []

    init(root: ConfigValue, registry: PluginRegistry) {
        self.root = root
        self.registry = registry
    }

    /// What a reference may name: what is declared, and every type.
    var names: [String] { declarations.map(\.name.name) + registry.types }

    /// Reads one entry of `plugins`.
    func declare(_ entry: ConfigValue) throws(ConfigError) {
        let declaration = try entry.section { (section) throws(ConfigError) in
            let type = try section.required("type")
            let text = try type.string()
            guard registry.factory(of: text) != nil else {
                throw type.error(
                    "is no known plugin type: '\(text)'; "
                        + suggestion(for: text, among: registry.types))
            }
            let name = try section.optional("name")?.string()
            return Declaration(
                name: PluginName(type: text, name: name),
                parameters: section.orEmpty("parameters"), entry: entry)
        }
        guard !declarations.contains(where: { $0.name.name == declaration.name.name }) else {
            throw entry.error("declares '\(declaration.name.name)' a second time")
        }
        declarations.append(declaration)
    }

    /// Makes all declared plugins.
    func makeAll() throws(ConfigError) {
        for declaration in declarations {
            _ = try make(declaration)
        }
    }

    /// The declared plugin that `reference` names.
    func declared(_ reference: ConfigValue) throws(ConfigError) -> any Plugin {
        let name = try reference.string()
        guard let declaration = declarations.first(where: { $0.name.name == name }) else {
            throw reference.error(
                "names no plugin: '\(name)'; "
                    + suggestion(for: name, among: declarations.map(\.name.name)))
        }
        return try make(declaration)
    }

    /// The declared plugin of a name, else one made with the defaults of the type of that name;
    /// nil if there is no such type.
    func declaredOrStandard(_ name: String) throws(ConfigError) -> (any Plugin)? {
        if let declaration = declarations.first(where: { $0.name.name == name }) {
            return try make(declaration)
        }
        guard registry.factory(of: name) != nil else { return nil }
        return try make(
            Declaration(
                name: PluginName(type: name), parameters: root.empty(path: name), entry: root))
    }

    private func make(_ declaration: Declaration) throws(ConfigError) -> any Plugin {
        let name = declaration.name
        if let plugin = made[name.name] { return plugin }
        guard let factory = registry.factory(of: name.type) else {
            throw declaration.entry.error("is no known plugin type: '\(name.type)'")
        }
        guard inTheMaking.insert(name.name).inserted else {
            throw declaration.entry.error("refers to itself through other plugins")
        }
        let plugin = try declaration.parameters.section { (section) throws(ConfigError) in
            var source = PluginSource(name: name, parameters: section, resolver: self)
            let plugin = try factory(&source)
            section = source.parameters
            return plugin
        }
        made[name.name] = plugin
        plugins.append(plugin)
        return plugin
    }
}
