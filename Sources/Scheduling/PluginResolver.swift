import Configuration

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
    /// The parameters that each of them was made from, by name.
    private(set) var parameters: [String: ConfigSection] = [:]

    init(root: ConfigValue, registry: PluginRegistry) {
        self.root = root
        self.registry = registry
    }

    /// Reads one entry of `plugins`.
    func declare(_ entry: ConfigValue) throws(ConfigError) {
        let declaration = try entry.section { (section) throws(ConfigError) in
            let type = try section.required("type")
            let text = try type.string()
            if let reason = registry.refusal(of: text) {
                throw type.error(
                    "is not supported: '\(text)' \(reason); docs/plugins.md has what is")
            }
            guard registry.factory(of: text) != nil || registry.isReserved(text) else {
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
        for declaration in declarations where registry.factory(of: declaration.name.type) != nil {
            _ = try make(declaration)
        }
    }

    /// The type and the parameters of the declared plugin of a name, else those of the type of
    /// that name; nil if there is no such type.
    func declaration(named name: String) -> (type: String, parameters: ConfigValue)? {
        if let found = declarations.first(where: { $0.name.name == name }) {
            return (found.name.type, found.parameters)
        }
        return registry.types.contains(name) ? (name, root.empty(path: name)) : nil
    }

    /// The types and parameters of what is declared.
    var allDeclared: [(type: String, parameters: ConfigValue)] {
        declarations.map { ($0.name.type, $0.parameters) }
    }

    /// What a reference may name.
    var names: [String] { declarations.map(\.name.name) + registry.types }

    /// The declared plugin that `reference` names.
    func declared(_ reference: ConfigValue) throws(ConfigError) -> any Plugin {
        let declaration = try find(reference)
        guard registry.factory(of: declaration.name.type) != nil else {
            throw reference.error(
                "names '\(declaration.name.name)', which has no place here")
        }
        return try make(declaration)
    }

    private func find(_ reference: ConfigValue) throws(ConfigError) -> Declaration {
        let name = try reference.string()
        guard let declaration = declarations.first(where: { $0.name.name == name }) else {
            throw reference.error(
                "names no plugin: '\(name)'; "
                    + suggestion(for: name, among: declarations.map(\.name.name)))
        }
        return declaration
    }

    /// Makes a plugin from the parameters of another, which remain to be read by it.
    func make(
        _ type: String, named name: String, from source: inout PluginSource
    ) throws(ConfigError) -> any Plugin {
        guard let factory = registry.factory(of: type) else {
            throw source.parameters.error("needs a plugin of the type '\(type)'")
        }
        var inner = PluginSource(
            name: PluginName(type: type, name: name), parameters: source.parameters,
            isDeclared: source.isDeclared, resolver: self)
        let plugin = try factory(&inner)
        source.parameters = inner.parameters
        made[name] = plugin
        parameters[name] = inner.parameters
        plugins.append(plugin)
        return plugin
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

    /// Makes the declared plugins of a type, or one with its defaults if there are none.
    func makeSure(of type: String) throws(ConfigError) {
        let declared = declarations.filter { $0.name.type == type }
        for declaration in declared { _ = try make(declaration) }
        if declared.isEmpty { _ = try declaredOrStandard(type) }
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
            var source = PluginSource(
                name: name, parameters: section,
                isDeclared: declarations.contains { $0.name == name }, resolver: self)
            let plugin = try factory(&source)
            section = source.parameters
            parameters[name.name] = section
            return plugin
        }
        made[name.name] = plugin
        plugins.append(plugin)
        return plugin
    }
}
