public import Net

/// What can go wrong with a Redis server. The description is one line that names the cause.
public enum RedisError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The configured address cannot be used.
    case address(String, problem: String)
    /// There is no connection now; the text tells why.
    case notConnected(String)
    /// The connection ended before all replies were there. Commands may have taken effect.
    case connectionLost(NetError)
    /// The replies did not come in time, and the connection was given up. Commands may have taken
    /// effect.
    case timedOut
    /// So many bytes wait for their replies that no more are taken.
    case queueFull(limitBytes: Int)
    /// The server sent what is not RESP, or more than is allowed.
    case malformedReply(String)
    /// The server refused a command.
    case server(RedisServerError)
    /// The client was closed.
    case closed

    /// One line for people.
    public var description: String {
        switch self {
        case .address(let address, let problem): "Redis address '\(address)' \(problem)"
        case .notConnected(let reason): "no connection to Redis: \(reason)"
        case .connectionLost(let error): "the connection to Redis was lost: \(error)"
        case .timedOut: "Redis did not reply in time"
        case .queueFull(let limit): "more than \(limit) bytes wait for Redis"
        case .malformedReply(let problem): "bad reply of Redis: \(problem)"
        case .server(let error): error.description
        case .closed: "the Redis client is closed"
        }
    }
}

/// An error that a Redis server replied with.
public struct RedisServerError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What the first word of the reply stands for.
    public enum Kind: Hashable, Sendable {
        /// A replica: writes are refused (READONLY).
        case readOnly
        /// The server is still reading its data from disk (LOADING).
        case loading
        /// The memory limit is reached and nothing may be evicted (OOM).
        case outOfMemory
        /// The key belongs to another node of a cluster (MOVED, ASK, CROSSSLOT, CLUSTERDOWN).
        case cluster
        /// User or password are wrong, or do not suffice (NOAUTH, WRONGPASS, NOPERM).
        case denied
        /// Writes are refused because of the server's disk or its replicas (MISCONF, NOREPLICAS,
        /// MASTERDOWN).
        case unavailable
        /// A script runs for too long (BUSY).
        case busy
        /// The script is not known to the server (NOSCRIPT).
        case unknownScript
        /// The key holds another type (WRONGTYPE).
        case wrongType
        /// Anything else.
        case other
    }

    /// What it stands for.
    public let kind: Kind
    /// As the server sent it.
    public let message: String

    /// Reads the server's text.
    public init(message: String) {
        self.message = message
        kind =
            switch message.prefix(while: { $0 != " " }) {
            case "READONLY": .readOnly
            case "LOADING": .loading
            case "OOM": .outOfMemory
            case "MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN": .cluster
            case "NOAUTH", "WRONGPASS", "NOPERM": .denied
            case "MISCONF", "NOREPLICAS", "MASTERDOWN": .unavailable
            case "BUSY": .busy
            case "NOSCRIPT": .unknownScript
            case "WRONGTYPE": .wrongType
            default: .other
            }
    }

    /// One line for people.
    public var description: String {
        kind == .cluster
            ? "Redis is a cluster, which is not supported; name a single server, the primary of a "
                + "replica set or a proxy (\(message))"
            : "Redis: \(message)"
    }
}
