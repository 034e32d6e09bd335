package import Net

/// Which pages of browsers may call the gateway (Fetch standard, section 3.2).
public struct CORSPolicy: Equatable, Sendable {
    private let origins: Set<String>

    /// Allows pages of these origins, such as `https://chat.example:8443`; `*` is any.
    ///
    /// Nil if one is no origin: a scheme and a host with an optional port, and no path.
    public init?(origins: [String]) {
        for origin in origins where origin != "*" {
            let parts = origin.split(separator: "/", omittingEmptySubsequences: false)
            guard parts.count == 3, parts[0].hasSuffix(":"), parts[0].count > 1,
                parts[1].isEmpty, !parts[2].isEmpty
            else { return nil }
        }
        self.origins = Set(origins.map { $0.lowercased() })
    }

    /// What is answered to a browser that asks before a request; nil if this is no such question.
    /// To a page that is not allowed the answer allows nothing.
    package func preflight(_ head: HTTPRequestHead) -> HTTPResponseHead? {
        guard head.method == "OPTIONS", head.headers.contains("origin"),
            head.headers.contains("access-control-request-method")
        else { return nil }
        var headers: HTTPHeaders = [:]
        // The fields are set by ``apply(to:for:)``, as on every response.
        guard allowed(head) != nil else { return HTTPResponseHead(status: 403, headers: headers) }
        headers.append("access-control-allow-methods", "GET, POST, OPTIONS")
        // `*` does not stand for `authorization`.
        let wanted = head.headers[first: "access-control-request-headers"]
        headers.append("access-control-allow-headers", wanted ?? "authorization, content-type")
        headers.append("access-control-max-age", "7200")
        return HTTPResponseHead(status: 204, headers: headers)
    }

    /// Adds to a response what lets the page that asked read it.
    package func apply(to headers: inout HTTPHeaders, for head: HTTPRequestHead) {
        // What an engine says of this would speak of its own port.
        headers.remove("access-control-allow-origin")
        headers.remove("access-control-allow-credentials")
        if !origins.contains("*") { headers.append("vary", "origin") }
        guard let origin = allowed(head) else { return }
        headers.append("access-control-allow-origin", origin)
        headers.set("access-control-expose-headers", "*")
    }

    /// What `access-control-allow-origin` says to a page; nil if nothing.
    private func allowed(_ head: HTTPRequestHead) -> String? {
        guard let origin = head.headers[first: "origin"] else { return nil }
        if origins.contains("*") { return "*" }
        return origins.contains(origin.lowercased()) ? origin : nil
    }
}
