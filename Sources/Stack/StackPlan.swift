public import Core

/// The processes of a stack, their ports and arguments: everything that can be said before one of
/// them runs.
public struct StackPlan: Equatable, Sendable {
    /// One child process.
    public struct Child: Equatable, Sendable {
        /// What it is.
        public enum Kind: String, Sendable {
            case engine, sidecar, gateway
        }

        /// Unique in the stack, such as `decode-1`.
        public var name: String
        /// What it is.
        public var kind: Kind
        /// Where it answers HTTP, `GET /health` among it.
        public var address: SocketAddress
        /// Arguments of the `llmd` binary.
        public var arguments: [String]
    }

    /// The children in the order in which they start; they stop in the reverse order.
    public var children: [Child]

    /// The engines as an endpoints file lists them.
    public let endpointsText: String

    /// Where clients send requests: to any of these, or one.
    public var gateways: [SocketAddress]
    /// Where each gateway shows its metrics.
    public var metrics: [SocketAddress]

    /// The first gateway.
    public var gateway: SocketAddress { gateways[0] }

    /// The engines among the children.
    public var engines: [Child] { children.filter { $0.kind == .engine } }

    /// Plans a stack.
    ///
    /// - Throws: ``StackError`` if it would have no engine that generates, or too many for the
    ///   ports from `firstChildPort` on.
    public init(_ configuration: StackConfiguration) throws(StackError) {
        let counts: [(role: ServerRole, count: Int)]
        switch configuration.engines {
        case .aggregated(let count):
            guard count >= 1 else { throw .usage("a stack needs at least one engine") }
            counts = [(.both, count)]
        case .disaggregated(let prefill, let decode):
            guard prefill >= 1, decode >= 1 else {
                throw .usage("disaggregation needs at least one prefill and one decode engine")
            }
            counts = [(.prefill, prefill), (.decode, decode)]
        }
        var room = (65536 - Int(configuration.firstChildPort)) / Self.portsPerEngine
        for (_, count) in counts {
            guard count <= room else {
                throw .usage(
                    "so many engines do not fit above port \(configuration.firstChildPort), with "
                        + "\(Self.portsPerEngine) ports each")
            }
            room -= count
        }
        let roles = counts.flatMap { Array(repeating: $0.role, count: $0.count) }

        let host = configuration.host
        func address(_ port: UInt16) -> SocketAddress { SocketAddress(host: host, port: port) }

        var engines: [Child] = []
        var sidecars: [Child] = []
        var endpoints: [String] = []
        var entries = ["endpoints:"]
        var numbers: [ServerRole: Int] = [:]
        for (index, role) in roles.enumerated() {
            let number = numbers[role, default: 0]
            numbers[role] = number + 1
            let name = "\(role == .both ? "engine" : role.rawValue)-\(number)"
            let base = configuration.firstChildPort + UInt16(index * Self.portsPerEngine)
            let engine = address(base)
            // Engines bind `ipc` endpoints, as vLLM does; `@` keeps them out of the file system.
            let events = "ipc://@llmd-\(base)-events"
            let replay = "ipc://@llmd-\(base)-replay"
            engines.append(
                Child(
                    name: name, kind: .engine, address: engine,
                    arguments: [
                        "sim", "--host", host, "--port", "\(base)",
                        "--model", configuration.model, "--role", role.rawValue,
                        "--zmq-endpoint", events, "--kv-events-replay-endpoint", replay,
                        "--kv-transfer-port", "\(base + 3)", "--seed", "\(index)",
                    ] + configuration.engineArguments))
            var front = engine
            if role == .decode {
                front = address(base + 5)
                sidecars.append(
                    Child(
                        name: "\(name)-sidecar", kind: .sidecar, address: front,
                        arguments: [
                            "sidecar", "--host", host, "--port", "\(front.port)",
                            "--model-server-port", "\(base)", "--reveal-prefiller",
                        ]))
            }
            // A server without a role label does the whole request, as upstream has it.
            let label = role == .both ? "" : ",role=\(role.rawValue)"
            endpoints += [
                "--endpoint",
                "name=\(name),address=\(front),metrics=\(engine)\(label),"
                    + "events=\(events),replay=\(replay)",
            ]
            let labels = role == .both ? "" : ", labels: {llm-d.ai/role: \(role.rawValue)}"
            entries.append(
                "- {name: \(name), address: \"\(host)\", port: \(front.port), "
                    + "metricsPort: \(engine.port), eventsEndpoint: \"\(events)\", "
                    + "replayEndpoint: \"\(replay)\"\(labels)}")
        }
        endpointsText = entries.joined(separator: "\n") + "\n"
        if let file = configuration.endpointsFile { endpoints = ["--endpoints-file", file] }

        var routers = configuration.configTexts.map { ["--config-text", $0] }
        if routers.isEmpty {
            routers = [
                configuration.configFile.map { ["--config-file", $0] }
                    ?? ["--policy", configuration.policy]
            ]
        }
        let ports = try Self.ports(configuration, routers.count)
        gateways = ports.map { address($0.gateway) }
        metrics = ports.map { address($0.metrics) }
        children =
            engines + sidecars
            + zip(routers, ports).enumerated().map { index, router in
                let (policy, ports) = router
                return Child(
                    name: index == 0 ? "gateway" : "gateway-\(index)", kind: .gateway,
                    address: address(ports.gateway),
                    arguments: [
                        "gateway", "--host", host, "--port", "\(ports.gateway)",
                        "--metrics-port", "\(ports.metrics)", "--reveal-endpoints",
                    ] + policy + endpoints + configuration.gatewayArguments)
            }
    }

    private static func ports(
        _ configuration: StackConfiguration, _ count: Int
    ) throws(StackError) -> [(gateway: UInt16, metrics: UInt16)] {
        var ports: [(gateway: UInt16, metrics: UInt16)] = []
        for index in 0..<count {
            guard let gateway = UInt16(exactly: Int(configuration.port) + index),
                let metrics = UInt16(exactly: Int(configuration.metricsPort) + index)
            else { throw .usage("so many gateways do not fit above their first ports") }
            ports.append((gateway, metrics))
        }
        return ports
    }

    /// HTTP, KV transfer at +3, the sidecar at +5.
    static let portsPerEngine = 10
}

/// Why a stack did not start or did not go on.
public enum StackError: Error, Equatable, CustomStringConvertible {
    /// The options make no sense.
    case usage(String)
    /// A child ended before it answered; the last line it said.
    case childDied(name: String, status: String, lastLine: String?)
    /// A child did not answer in time.
    case notReady(name: String, seconds: Int)
    /// A child could not be started.
    case cannotSpawn(name: String, reason: String)

    /// One line for people.
    public var description: String {
        switch self {
        case .usage(let problem): problem
        case .childDied(let name, let status, let lastLine):
            "\(name) ended at start (\(status))\(lastLine.map { ": \($0)" } ?? "")"
        case .notReady(let name, let seconds):
            "\(name) was not ready within \(seconds) s"
        case .cannotSpawn(let name, let reason):
            "\(name) could not be started: \(reason)"
        }
    }
}
