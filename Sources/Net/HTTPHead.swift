internal import CNet

/// The versions of HTTP that Net speaks.
public enum HTTPVersion: Hashable, Sendable {
    /// HTTP/1.0
    case http1_0
    /// HTTP/1.1
    case http1_1
    /// HTTP/2
    case http2
}

/// What a request says before its body.
///
/// Fields that belong to the connection (`connection`, `transfer-encoding`, `keep-alive`,
/// `proxy-connection`, `upgrade`) are removed from received heads and never sent from here: Net
/// owns framing. `host` is ``authority``. A received head may be sent on as it is.
public struct HTTPRequestHead: Hashable, Sendable {
    /// The method, as sent: `GET`.
    public var method: String
    /// Path and query in origin form: `/v1/models?all=1`; or `*` for OPTIONS.
    public var target: String
    /// The host that the client asked for: `host:` on HTTP/1, `:authority` on HTTP/2. When nil,
    /// a client sends the address it connects to.
    public var authority: String?
    /// The fields, without `host`.
    public var headers: HTTPHeaders
    /// The version it arrived by; clients ignore it.
    public var version: HTTPVersion

    /// A request to be sent.
    public init(
        method: String, target: String, authority: String? = nil, headers: HTTPHeaders = [:]
    ) {
        self.method = method
        self.target = target
        self.authority = authority
        self.headers = headers
        version = .http1_1
    }

    /// The target up to its query, not percent-decoded.
    public var path: Substring { target[..<(queryMark ?? target.endIndex)] }

    /// What follows the first `?` of the target; nil without one.
    public var query: Substring? {
        queryMark.map { target[target.index(after: $0)...] }
    }

    /// Of bytes, not characters, which take far longer to tell apart.
    private var queryMark: String.Index? { target.utf8.firstIndex(of: UInt8(ascii: "?")) }
}

/// What a response says before its body. The remarks on ``HTTPRequestHead`` hold here too.
public struct HTTPResponseHead: Hashable, Sendable {
    /// The status code, 200 to 599.
    public var status: Int
    /// The fields.
    public var headers: HTTPHeaders

    /// A response to be sent.
    public init(status: Int, headers: HTTPHeaders = [:]) {
        self.status = status
        self.headers = headers
    }
}

extension HTTPHeaders: Hashable {
    /// Hashes what `==` compares, names aside.
    public func hash(into hasher: inout Hasher) {
        for field in self { hasher.combine(field.value) }
    }
}

extension HTTPRequestHead {
    init(_ head: borrowing cn_head) {
        method = String(head.method)
        target = String(head.target)
        authority = head.authority.count == 0 ? nil : String(head.authority)
        headers = HTTPHeaders(head)
        version =
            switch head.version {
            case CN_HTTP_1_0: .http1_0
            case CN_HTTP_2: .http2
            default: .http1_1
            }
    }

    /// Calls `body` with a C head that borrows this one.
    func withHead<Result>(
        authority fallback: @autoclosure () -> String, _ body: (UnsafePointer<cn_head>) -> Result
    ) -> Result {
        var (method, target, authority) = (method, target, self.authority ?? fallback())
        return method.withUTF8 { method in
            target.withUTF8 { target in
                authority.withUTF8 { authority in
                    headers.withHead { head in
                        head.method = cn_span(method)
                        head.target = cn_span(target)
                        head.authority = cn_span(authority)
                        return body(&head)
                    }
                }
            }
        }
    }
}

extension HTTPResponseHead {
    init(_ head: borrowing cn_head) {
        status = Int(head.status)
        headers = HTTPHeaders(head)
    }

    /// Calls `body` with a C head that borrows this one.
    func withHead<Result>(_ body: (UnsafePointer<cn_head>) -> Result) -> Result {
        headers.withHead { head in
            head.status = UInt32(clamping: status)
            return body(&head)
        }
    }
}

extension cn_span {
    fileprivate init(_ bytes: UnsafeBufferPointer<UInt8>) {
        self.init(data: bytes.baseAddress, count: bytes.count)
    }
}

extension String {
    fileprivate init(_ span: cn_span) {
        self.init(decoding: UnsafeBufferPointer(start: span.data, count: span.count), as: UTF8.self)
    }
}
