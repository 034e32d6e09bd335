/// A host and a port, or a Unix socket. The host is an IPv4 or IPv6 literal or a name to resolve.
///
/// The text form is the one that `x-gateway-destination-endpoint` carries: `10.0.0.7:8000`, and
/// `[fd00::7]:8000` for IPv6 (RFC 3986 section 3.2.2).
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    /// The longest path of a Unix socket, in bytes.
    public static let maximumUnixPathBytes = 107

    /// An IPv4 or IPv6 literal without brackets, or a host name. Of a Unix socket its path.
    public var host: String
    /// 0 asks the system for a free port when listening.
    public var port: UInt16

    /// Makes an address from its parts; `host` carries no brackets.
    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    /// The Unix socket with this absolute path. Clients connect to it; no server listens there.
    public init(unixSocket path: String) {
        self.init(host: path, port: 0)
    }

    /// Whether it is a Unix socket.
    public var isUnixSocket: Bool { host.hasPrefix("/") }

    /// Parses `host:port`, `[v6]:port`, or `:port`, which means every IPv4 interface.
    /// Never a Unix socket: such text may come from anybody.
    ///
    /// - Throws: ``AddressError`` that quotes the text and says what is wrong with it.
    public init(parsing text: String) throws(AddressError) {
        // Of bytes: proxies ask for the address of every client.
        let bytes = text.utf8
        guard let colon = bytes.lastIndex(of: UInt8(ascii: ":")) else {
            throw AddressError(text: text, problem: "has no port")
        }
        let digits = bytes[bytes.index(after: colon)...]
        guard let port = UInt16(Substring(digits)), digits.first != UInt8(ascii: "+") else {
            throw AddressError(text: text, problem: "has no port between 0 and 65535")
        }
        var host = bytes[..<colon]
        if host.first == UInt8(ascii: "["), host.count > 1, host.last == UInt8(ascii: "]") {
            host = host.dropFirst().dropLast()
            guard host.contains(UInt8(ascii: ":")) else {
                throw AddressError(text: text, problem: "has brackets but is not IPv6")
            }
        } else if host.contains(UInt8(ascii: ":")) {
            throw AddressError(text: text, problem: "has an IPv6 host without brackets")
        }
        guard !host.contains(UInt8(ascii: "/")) else {
            throw AddressError(text: text, problem: "has a slash in its host")
        }
        self.init(host: host.isEmpty ? "0.0.0.0" : String(Substring(host)), port: port)
    }

    /// `host:port`, with brackets round an IPv6 host, or `unix:` and the path.
    public var description: String {
        if isUnixSocket { return "unix:\(host)" }
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}

/// A text that is not a socket address.
public struct AddressError: Error, Equatable, CustomStringConvertible {
    /// The text as given.
    public var text: String
    /// What is wrong, as the end of a sentence that starts with the text.
    public var problem: String

    /// One line for people.
    public var description: String { "address '\(text)' \(problem)" }
}
