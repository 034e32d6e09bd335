import Core
public import Net

/// Where a Redis server is, who we are there, and how long we wait.
public struct RedisConfiguration: Hashable, Sendable {
    /// The server.
    public var remote: ByteStream.Remote
    /// How the server's certificate is checked; nil for a connection without TLS.
    public var tls: TLSClientContext.Verification?
    /// The user of Redis' access control; nil for the default one.
    public var username: String?
    /// Nil: none is needed.
    public var password: String?
    /// The number of the database.
    public var database = 0
    /// For name, connection, TLS handshake, and for the first replies.
    public var connectTimeout = Duration.seconds(2)
    /// Until all replies of a pipeline are there.
    public var commandTimeout = Duration.seconds(2)
    /// Of commands that wait for their replies.
    public var maximumQueuedBytes = 64 << 20
    /// What the server may send and we not yet have handled; Redis' own limit of a value.
    public var maximumReplyBytes = 512 << 20
    /// The pauses between attempts to connect: doubled from the first to the last, and each cut by
    /// up to a half at random, so that many clients do not come back at once.
    public var reconnectDelay = Duration.milliseconds(100)...Duration.seconds(5)

    /// A server without TLS, user and password.
    public init(remote: ByteStream.Remote) {
        self.remote = remote
    }

    /// Reads `redis://[[user]:password@]host[:port][/database]`, `rediss://` for TLS, the same with
    /// `valkey` and `valkeys`, `unix:///path[?db=database]`, or `host:port`. Characters of user and
    /// password may be written as `%XX`.
    ///
    /// - Throws: ``RedisError/address(_:problem:)``.
    public init(parsing text: String) throws(RedisError) {
        func refused(_ problem: String) -> RedisError {
            // A password must not come into a log.
            let end = text.lastIndex(of: "@").map { text.index(after: $0) }
            return .address(end.map { "…@" + text[$0...] } ?? text, problem: problem)
        }
        let (scheme, rest) = Self.split(text)
        switch scheme {
        case "redis", "valkey": break
        case "rediss", "valkeys": tls = .system
        case "unix":
            let parts = rest.split(separator: "?", maxSplits: 1)
            guard let path = parts.first, path.hasPrefix("/") else {
                throw refused("needs an absolute path")
            }
            remote = .unix(path: String(path))
            if parts.count == 2 {
                guard parts[1].hasPrefix("db="), let number = Self.database(parts[1].dropFirst(3))
                else { throw refused("may have ?db=NUMBER after the path, and nothing else") }
                database = number
            }
            return
        default: throw refused("has the scheme '\(scheme)'; redis, rediss and unix are known")
        }
        var host = rest
        if let at = rest.lastIndex(of: "@") {
            let user = rest[..<at].split(
                separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard user.count == 2, let name = Self.decoded(user[0]),
                let password = Self.decoded(user[1])
            else { throw refused("has something else than user:password before the @") }
            username = name.isEmpty ? nil : name
            self.password = password
            host = rest[rest.index(after: at)...]
        }
        if let slash = host.firstIndex(of: "/") {
            let path = host[host.index(after: slash)...]
            guard let number = path.isEmpty ? 0 : Self.database(path) else {
                throw refused("has '\(path)' where the number of a database belongs")
            }
            database = number
            host = host[..<slash]
        }
        let hasPort = host.last != "]" && host.contains(":")
        do {
            let address = try SocketAddress(parsing: hasPort ? String(host) : "\(host):6379")
            guard !host.isEmpty, !host.hasPrefix(":") else { throw refused("has no host") }
            remote = .tcp(address)
        } catch let error as AddressError {
            throw refused(error.problem)
        } catch {
            throw refused("has no host")
        }
    }

    private static func split(_ text: String) -> (scheme: Substring, rest: Substring) {
        guard let range = text.firstRange(of: "://") else { return ("redis", text[...]) }
        return (text[..<range.lowerBound], text[range.upperBound...])
    }

    private static func database(_ text: Substring) -> Int? {
        Int(text).flatMap { $0 >= 0 ? $0 : nil }
    }

    private static func decoded(_ text: Substring) -> String? {
        var bytes: [UInt8] = []
        var rest = text.utf8[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(rest.prefix(2)) ?? "", radix: 16) else {
                return nil
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        return String(decoding: bytes, as: UTF8.self)
    }
}
