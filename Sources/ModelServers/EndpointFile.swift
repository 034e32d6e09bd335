public import Configuration
public import Core

/// Reads discovery files, and lists of endpoints in the arguments of `--endpoint`.
public enum EndpointFile {
    /// A longer file is refused.
    public static let maximumBytes = 1 << 20

    /// What a discovery file says.
    public struct Contents: Equatable, Sendable {
        /// The model servers.
        public var servers: [ModelServer]
        /// What it says about requests.
        public var rules: TrafficRules
    }

    /// Reads a file; see ``contents(parsing:file:)``.
    public static func contents(at path: String) throws(ConfigError) -> Contents {
        try contents(
            parsing: try ConfigFile.text(at: path, maximumBytes: maximumBytes), file: path)
    }

    /// Reads a document in YAML or JSON, as upstream's `file-discovery` has it:
    ///
    ///     endpoints:
    ///     - name: decode-0
    ///       namespace: default          # optional; becomes part of the name
    ///       address: 10.0.0.7           # IPv4, IPv6 or a name
    ///       port: "8000"
    ///       labels: {llm-d.ai/role: decode}
    ///
    /// and beyond upstream `metricsPort` (a port at the same address), `eventsEndpoint` and
    /// `replayEndpoint` (ZMQ endpoints of the engine's KV events; of rank 0 if there are more), and
    /// `dataParallelSize` (the ranks behind the address). Beside `endpoints` may stand `objectives`
    /// and `modelRewrites`, see ``TrafficRules``.
    public static func contents(
        parsing text: String, file: String
    ) throws(ConfigError) -> Contents {
        let root = try ConfigValue(parsing: text, file: file)
        return try root.section { (section) throws(ConfigError) in
            var servers: [ModelServer] = []
            for entry in try section.required("endpoints").list() {
                let server = try server(entry)
                if let twin = servers.first(where: { collide($0, server) }) {
                    throw entry.error("has the name or the address of '\(twin.name)'")
                }
                servers.append(server)
            }
            return Contents(servers: servers, rules: try TrafficRules(reading: &section))
        }
    }

    /// Reads the arguments of an option that may be given again, each of which is
    /// `name=…,address=host:port` with optional `metrics=host:port`, `role=…`, `engine=…`,
    /// `events=…`, `replay=…` and `dp=…`; or only `host:port`, which is the name then, too.
    public static func servers(
        parsing arguments: [String], option: String
    ) throws(ConfigError) -> [ModelServer] {
        var servers: [ModelServer] = []
        for argument in arguments {
            let server = try server(parsing: argument, option: option)
            if let twin = servers.first(where: { collide($0, server) }) {
                throw ConfigError(
                    file: option, line: nil,
                    problem: "'\(argument)' has the name or the address of '\(twin.name)'")
            }
            servers.append(server)
        }
        return servers
    }

    private static func server(
        parsing argument: String, option: String
    ) throws(ConfigError) -> ModelServer {
        func error(_ problem: String) -> ConfigError {
            ConfigError(file: option, line: nil, problem: "'\(argument)' \(problem)")
        }
        func address(_ text: String) throws(ConfigError) -> SocketAddress {
            do {
                return try SocketAddress(parsing: text)
            } catch let wrong {
                throw error("has a wrong address: \(wrong)")
            }
        }
        guard argument.contains("=") else {
            return ModelServer(name: argument, address: try address(argument))
        }
        let keys = ["name", "address", "metrics", "role", "engine", "events", "replay", "dp"]
        var values: [String: String] = [:]
        for field in argument.split(separator: ",", omittingEmptySubsequences: false) {
            let parts = field.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw error("is no list of key=value") }
            guard keys.contains(parts[0]) else {
                throw error(
                    "has an unknown key '\(parts[0])'; \(suggestion(for: parts[0], among: keys))")
            }
            guard values.updateValue(parts[1], forKey: parts[0]) == nil else {
                throw error("has '\(parts[0])' twice")
            }
        }
        guard let text = values["address"] else { throw error("needs an 'address'") }
        let role = values["role"]
        if let role, ServerRole(rawValue: role) == nil {
            let roles = ServerRole.allCases.map(\.rawValue)
            throw error("has an unknown role; \(suggestion(for: role, among: roles))")
        }
        var labels: [String: String] = [:]
        labels[ServerRole.label] = role
        labels[EngineMetricsTable().label] = values["engine"]
        let sizes = 1...ModelServer.maximumDataParallelSize
        let size = values["dp"].map { Int($0) ?? 0 } ?? 1
        guard sizes.contains(size) else {
            throw error("needs a 'dp' from 1 to \(sizes.upperBound)")
        }
        let server = ModelServer(
            name: values["name"] ?? text, address: try address(text),
            metricsAddress: try values["metrics"].map { (text) throws(ConfigError) in
                try address(text)
            },
            labels: labels, eventsEndpoint: values["events"],
            replayEndpoint: values["replay"], dataParallelSize: size)
        if let problem = problem(withRanksOf: server) { throw error(problem) }
        return server
    }

    private static func server(_ entry: ConfigValue) throws(ConfigError) -> ModelServer {
        try entry.section { (section) throws(ConfigError) in
            let name = try section.required("name").string()
            let namespace = try section.optional("namespace")?.string()
            let host = try section.required("address")
            let hostText = try host.string()
            guard !hostText.isEmpty, !hostText.contains(where: { "[]/ ".contains($0) }) else {
                throw host.error("must be an IP address or a host name")
            }
            let port = UInt16(try section.required("port").integer(in: 1...65535))
            let metricsPort = try section.optional("metricsPort")?.integer(in: 1...65535)
            let sizes = 1...ModelServer.maximumDataParallelSize
            let server = ModelServer(
                name: namespace.map { "\($0)/\(name)" } ?? name,
                address: SocketAddress(host: hostText, port: port),
                metricsAddress: metricsPort.map {
                    SocketAddress(host: hostText, port: UInt16($0))
                },
                labels: try section.optional("labels")?.strings() ?? [:],
                eventsEndpoint: try section.optional("eventsEndpoint")?.string(),
                replayEndpoint: try section.optional("replayEndpoint")?.string(),
                dataParallelSize: try section.optional("dataParallelSize")?.integer(in: sizes) ?? 1)
            if let problem = problem(withRanksOf: server) { throw entry.error(problem) }
            return server
        }
    }

    private static func collide(_ one: ModelServer, _ other: ModelServer) -> Bool {
        one.address == other.address || !rankNames(one).isDisjoint(with: rankNames(other))
    }

    private static func rankNames(_ server: ModelServer) -> Set<String> {
        Set((0..<server.dataParallelSize).map(server.name(ofRank:)))
    }

    /// Why the KV events of the server's ranks cannot be told apart; nil if they can.
    private static func problem(withRanksOf server: ModelServer) -> String? {
        var endpoints: Set<String> = []
        for number in 0..<server.dataParallelSize {
            guard let rank = server.rank(number) else {
                return "needs ports for the KV events of \(server.dataParallelSize) ranks"
            }
            for endpoint in [rank.eventsEndpoint, rank.replayEndpoint].compactMap(\.self)
            where !endpoints.insert(endpoint).inserted {
                return "has two uses for '\(endpoint)': each rank takes the next port"
            }
        }
        return nil
    }
}
