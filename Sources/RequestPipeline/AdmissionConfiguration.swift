public import Configuration
public import FlowControl
public import Scheduling

/// What an EndpointPickerConfig says of admission: its feature gate and the sections `flowControl`
/// and `saturationDetector`, the last being an older place of the first's.
public struct AdmissionConfiguration: Sendable {
    /// Whether requests wait in queues.
    public var isFlowControlEnabled = false
    /// How they do; without the queues only its detector counts.
    public var flowControl = FlowControlConfiguration()

    /// Reads what a configuration says; its registry has ``FlowControl/FlowPolicy/types``
    /// reserved. What it does not say is as upstream has it.
    public init(_ picker: EndpointPickerConfig) throws(ConfigError) {
        isFlowControlEnabled = picker.featureGates["flowControl"] ?? false
        // Those that nobody refers to are checked, too.
        for (type, parameters) in picker.declarations {
            _ = try Self.policy(type, parameters)
        }
        let lookup: FlowControlConfiguration.Lookup = { (reference) throws(ConfigError) in
            let (type, parameters) = try picker.declaration(reference)
            guard let policy = try Self.policy(type, parameters) else {
                throw reference.error("names no policy of flow control")
            }
            return policy
        }
        if let section = picker.flowControl {
            flowControl = try FlowControlConfiguration(parsing: section, lookup: lookup)
        }
        let detectors = [
            picker.saturationDetector, picker.flowControl?.member("saturationDetector"),
        ]
        if let section = picker.saturationDetector {
            flowControl.detector = try FlowControlConfiguration.detector(
                parsing: section, lookup: lookup)
        }
        // The standard one may be declared with parameters.
        if !detectors.contains(where: { $0?.member("pluginRef") != nil }),
            let (type, parameters) = picker.declaration(named: UtilizationDetector.type),
            case .detector(let detector) = try Self.policy(type, parameters)
        {
            flowControl.detector = detector
        }
    }

    private static func policy(
        _ type: String, _ parameters: ConfigValue
    ) throws(ConfigError) -> FlowPolicy? {
        guard FlowPolicy.types.contains(type) else { return nil }
        return try parameters.section { (section) throws(ConfigError) in
            try FlowPolicy(type: type, parameters: &section)
        }
    }
}
