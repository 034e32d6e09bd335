import Core

/// Where a service listens: `http://host:port/path`, or `unix:/path` of a Unix socket. The port is
/// 80 unless it is given.
struct ServiceURL: Equatable {
    /// Host and port, or the socket.
    var address: SocketAddress
    /// What comes before the paths of the service; empty, or a path without a slash at its end.
    /// Empty of a Unix socket.
    var path: String

    /// Throws with the end of a sentence that starts with the text.
    init(parsing text: String) throws(ServiceURLError) {
        if text.hasPrefix("unix:") {
            address = try Self.unixSocket(text.dropFirst("unix:".count))
            path = ""
            return
        }
        guard let scheme = text.firstRange(of: "://") else {
            throw ServiceURLError(problem: "is no URL such as http://localhost:8000")
        }
        guard text[..<scheme.lowerBound].lowercased() == "http" else {
            throw ServiceURLError(problem: "has a scheme that is not http")
        }
        let rest = text[scheme.upperBound...]
        let authority = rest.prefix { $0 != "/" }
        guard !authority.isEmpty, !rest.contains(where: { "?#@ ".contains($0) }) else {
            throw ServiceURLError(problem: "must be a host, a port and perhaps a path")
        }
        let hasPort = authority.last != "]" && authority.contains(":")
        do {
            address = try SocketAddress(parsing: hasPort ? String(authority) : "\(authority):80")
        } catch {
            throw ServiceURLError(problem: error.problem)
        }
        var path = rest.dropFirst(authority.count)
        while path.last == "/" { path.removeLast() }
        self.path = String(path)
    }

    private static func unixSocket(_ rest: Substring) throws(ServiceURLError) -> SocketAddress {
        // `unix:///path` is the same as a URL.
        let path = rest.hasPrefix("//") ? rest.dropFirst(2) : rest
        guard path.count > 1, path.hasPrefix("/"), !path.utf8.contains(0) else {
            throw ServiceURLError(problem: "must be unix: and the absolute path of a socket")
        }
        guard path.utf8.count <= SocketAddress.maximumUnixPathBytes else {
            throw ServiceURLError(
                problem: "has a path of more than \(SocketAddress.maximumUnixPathBytes) bytes")
        }
        return SocketAddress(unixSocket: String(path))
    }
}

/// What is wrong with a URL.
struct ServiceURLError: Error, Equatable {
    var problem: String
}
