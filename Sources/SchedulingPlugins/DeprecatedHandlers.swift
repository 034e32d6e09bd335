import Configuration
import Core
import Scheduling

/// Types of older releases that stand for what newer ones do in another way.
enum DeprecatedHandlers {
    static func register(in registry: inout PluginRegistry) {
        // `disagg-profile-handler` with a decider that is named or made from `threshold`.
        registry.register("pd-profile-handler") { (source) throws(ConfigError) in
            let decode = try source.parameters.optional("decodeProfile")?.string()
            let prefill = try source.parameters.optional("prefillProfile")?.string()
            let decider = try source.plugin(
                "deciderPluginName", default: PrefixBasedPDDecider.type,
                as: (any PDDecider).self, called: "P/D decider")
            return DisaggProfileHandler(
                name: source.name, decodeProfile: decode ?? "decode",
                prefillProfile: prefill ?? "prefill", decider: decider)
        }
        // The handler sets the headers itself.
        for type in ["disagg-headers-handler", "prefill-header-handler"] {
            registry.register(type) { (source) throws(ConfigError) in
                _ = try source.parameters.optional("prefillProfile")?.string()
                _ = try source.parameters.optional("encodeProfile")?.string()
                return NoPart(name: source.name)
            }
        }
        // `label`, `validValues` and `allowsNoLabel` of the first label filter.
        registry.register("by-label") { (source) throws(ConfigError) in
            try ByLabelFilter(&source)
        }
        registry.alias("by-label-selector", of: LabelSelectorFilter.type)
    }
}

/// A plugin that configurations may declare and that has nothing to do.
final class NoPart: DataLayerPlugin {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }
}

/// `by-label`: deprecated; keeps endpoints whose label has one of several values.
final class ByLabelFilter: Filter {
    let name: PluginName
    private let label: String
    private let validValues: Set<String>
    private let allowsNoLabel: Bool

    init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        label = try source.parameters.required("label").string()
        var values: Set<String> = []
        for value in try source.parameters.optional("validValues")?.list() ?? [] {
            values.insert(try value.string())
        }
        validValues = values
        allowsNoLabel = try source.parameters.optional("allowsNoLabel")?.boolean() ?? false
    }

    func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { candidate in
            guard let value = context.endpoints[candidate].server.labels[label] else {
                return !allowsNoLabel
            }
            return !validValues.contains(value)
        }
    }
}
