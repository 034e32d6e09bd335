import Core

/// Where a service listens: `http://host:port/path`. The port is 80 unless it is given.
struct ServiceURL: Equatable {
    /// Host and port.
    var address: SocketAddress
    /// What comes before the paths of the service; empty, or a path without a slash at its end.
    var path: String

    /// Throws with the end of a sentence that starts with the text.
    init(parsing text: String) throws(ServiceURLError) {
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
}

/// What is wrong with a URL.
struct ServiceURLError: Error, Equatable {
    var problem: String
}
