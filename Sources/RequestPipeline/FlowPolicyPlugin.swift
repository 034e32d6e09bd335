public import Configuration
public import FlowControl
public import Scheduling

/// A policy or detector of flow control among the plugins of a configuration.
final class FlowPolicyPlugin: Plugin {
    let name: PluginName
    let policy: FlowPolicy

    init(name: PluginName, policy: FlowPolicy) {
        self.name = name
        self.policy = policy
    }
}

extension PluginRegistry {
    /// Adds the policies and detectors of flow control.
    public mutating func registerFlowPolicies() {
        for type in FlowPolicy.types {
            register(type) { (source) throws(ConfigError) in
                guard let policy = try FlowPolicy(type: type, parameters: &source.parameters) else {
                    preconditionFailure("'\(type)' is listed and cannot be made")
                }
                return FlowPolicyPlugin(name: source.name, policy: policy)
            }
        }
    }
}

/// What an EndpointPickerConfig says of admission: the sections `featureGates`, `flowControl` and
/// `saturationDetector`, the last being the older place of the first's.
public struct AdmissionConfiguration: Sendable {
    /// Whether requests wait in queues.
    public var isFlowControlEnabled = false
    /// How they do; without the queues only its detector counts.
    public var flowControl = FlowControlConfiguration()

    private enum Gate: String, CaseIterable {
        case flowControl
        case populateNonLeaderDatastore = "populate-non-leader-datastore"
    }

    /// Upstream's defaults.
    public init() {}

    /// Reads the sections from the root of a configuration.
    public init(
        parsing root: inout ConfigSection, plugins: PluginReferences
    ) throws(ConfigError) {
        let lookup: FlowControlConfiguration.Lookup = { (reference) throws(ConfigError) in
            guard let plugin = try plugins.plugin(reference) as? FlowPolicyPlugin else {
                throw reference.error("names no policy of flow control")
            }
            return plugin.policy
        }
        for entry in try root.optional("featureGates")?.list() ?? [] {
            try read(gate: entry)
        }
        if let value = root.optional("flowControl") {
            flowControl = try FlowControlConfiguration(parsing: value, lookup: lookup)
        }
        if let value = root.optional("saturationDetector") {
            flowControl.detector = try FlowControlConfiguration.detector(
                parsing: value, lookup: lookup)
        }
    }

    /// Reads `name`, `name=true` or `name=false`.
    private mutating func read(gate entry: ConfigValue) throws(ConfigError) {
        let parts = try entry.string().split(separator: "=", omittingEmptySubsequences: false)
        let name = String(parts[0])
        guard let gate = Gate(rawValue: name) else {
            let valid = Gate.allCases.map(\.rawValue)
            throw entry.error(
                "is no feature gate: '\(name)'; \(suggestion(for: name, among: valid))")
        }
        guard parts.count <= 2, let isOn = parts.count == 2 ? Bool(String(parts[1])) : true else {
            throw entry.error("must be '\(name)', '\(name)=true' or '\(name)=false'")
        }
        if gate == .flowControl { isFlowControlEnabled = isOn }
    }
}
