public import Configuration
public import Core

/// A host name behind which engines stand that are all alike: one at each of its addresses.
public struct DNSName: Equatable, Sendable {
    /// Which addresses count.
    public enum Family: String, Sendable, CaseIterable {
        /// Those of A records.
        case ipv4
        /// Those of AAAA records.
        case ipv6
    }

    /// The name, and the port at each address.
    public var address: SocketAddress
    /// Which addresses count; nil: all. An engine with addresses of both kinds is there twice.
    public var family: Family?
    /// The port of `/metrics` at each address; nil: that of the requests.
    public var metricsPort: UInt16?
    /// The port of KV events at each address, if there are any.
    public var eventsPort: UInt16?
    /// The port where missed KV events are replayed, if there is one.
    public var replayPort: UInt16?
    /// The labels of every endpoint.
    public var labels: [String: String] = [:]

    /// Makes a name of whose endpoints nothing more is known.
    public init(_ address: SocketAddress) {
        self.address = address
    }

    /// Reads an argument of `--endpoint-dns`: `host:port[,key=value]…` with the keys `role`,
    /// `family`, `metrics`, `events`, `replay` (ports) and, as often as wanted, `label=name=value`.
    public init(parsing argument: String, option: String) throws(ConfigError) {
        func error(_ problem: String) -> ConfigError {
            ConfigError(file: option, line: nil, problem: "'\(argument)' \(problem)")
        }
        let fields = argument.split(separator: ",", omittingEmptySubsequences: false)
        do {
            address = try SocketAddress(parsing: String(fields[0]))
        } catch let wrong {
            throw error("has a wrong address: \(wrong)")
        }
        guard address.port > 0, !fields[0].hasPrefix(":") else {
            throw error("needs a host and a port")
        }
        let keys = ["role", "family", "metrics", "events", "replay", "label"]
        var seen: Set<String> = []
        for field in fields.dropFirst() {
            let parts = field.split(separator: "=", maxSplits: 1).map(String.init)
            guard parts.count == 2 else { throw error("is no list of key=value") }
            let (key, value) = (parts[0], parts[1])
            guard key == "label" || seen.insert(key).inserted else {
                throw error("has '\(key)' twice")
            }
            func port() throws(ConfigError) -> UInt16 {
                guard let port = UInt16(value), port > 0 else {
                    throw error("needs a port as '\(key)'")
                }
                return port
            }
            switch key {
            case "role":
                guard ServerRole(rawValue: value) != nil else {
                    let roles = ServerRole.allCases.map(\.rawValue)
                    throw error("has an unknown role; \(suggestion(for: value, among: roles))")
                }
                labels[ServerRole.label] = value
            case "family":
                guard let family = Family(rawValue: value) else {
                    throw error("needs ipv4 or ipv6 as 'family'")
                }
                self.family = family
            case "metrics": metricsPort = try port()
            case "events": eventsPort = try port()
            case "replay": replayPort = try port()
            case "label":
                let sides = value.split(separator: "=", maxSplits: 1).map(String.init)
                guard sides.count == 2 else { throw error("needs label=name=value") }
                labels[sides[0]] = sides[1]
            default:
                throw error("has an unknown key '\(key)'; \(suggestion(for: key, among: keys))")
            }
        }
    }

    /// The endpoint at one of its addresses, called by that address.
    func server(at host: String) -> ModelServer {
        func endpoint(_ port: UInt16?) -> String? {
            port.map { "tcp://\(SocketAddress(host: host, port: $0))" }
        }
        let address = SocketAddress(host: host, port: address.port)
        return ModelServer(
            name: address.description, address: address,
            metricsAddress: metricsPort.map { SocketAddress(host: host, port: $0) },
            labels: labels, eventsEndpoint: endpoint(eventsPort),
            replayEndpoint: endpoint(replayPort))
    }

    func counts(_ host: String) -> Bool {
        switch family {
        case .ipv4: !host.contains(":")
        case .ipv6: host.contains(":")
        case nil: true
        }
    }
}
