/// What `llmd up` starts.
public struct StackConfiguration: Equatable, Sendable {
    /// How engines share the work.
    public enum Engines: Equatable, Sendable {
        /// Every engine computes prompts and generates.
        case aggregated(count: Int)
        /// Some engines compute prompts for others that generate.
        case disaggregated(prefill: Int, decode: Int)
    }

    /// The engines to start.
    public var engines: Engines
    /// The name of a built-in routing policy; ignored with `configFile`.
    public var policy: String
    /// An `EndpointPickerConfig` file for the gateway.
    public var configFile: String?
    /// An `EndpointPickerConfig` as text for each router; instead of `policy` and `configFile`.
    /// Empty for one router.
    public var configTexts: [String]
    /// The model that engines serve.
    public var model: String
    /// The address that every process listens on.
    public var host: String
    /// The gateway's port; further gateways have the ports after it.
    public var port: UInt16
    /// The gateway's port for metrics and status; further gateways have the ports after it.
    public var metricsPort: UInt16
    /// The first port of the children; each engine takes ten.
    public var firstChildPort: UInt16
    /// Further arguments for every engine (`llmd sim`).
    public var engineArguments: [String]
    /// Further arguments for every gateway (`llmd gateway`).
    public var gatewayArguments: [String]
    /// A file that tells the gateways of the engines; the caller writes
    /// ``StackPlan/endpointsText`` to it, and what else there is to say. Nil: they are told by
    /// arguments.
    public var endpointsFile: String?

    /// Makes a configuration.
    public init(
        engines: Engines = .disaggregated(prefill: 2, decode: 2), policy: String = "precise",
        configFile: String? = nil, configTexts: [String] = [], model: String = "llmd-sim",
        host: String = "127.0.0.1",
        port: UInt16 = 8000, metricsPort: UInt16 = 9090, firstChildPort: UInt16 = 18000,
        engineArguments: [String] = [], gatewayArguments: [String] = [],
        endpointsFile: String? = nil
    ) {
        self.engines = engines
        self.policy = policy
        self.configFile = configFile
        self.configTexts = configTexts
        self.model = model
        self.host = host
        self.port = port
        self.metricsPort = metricsPort
        self.firstChildPort = firstChildPort
        self.engineArguments = engineArguments
        self.gatewayArguments = gatewayArguments
        self.endpointsFile = endpointsFile
    }
}
