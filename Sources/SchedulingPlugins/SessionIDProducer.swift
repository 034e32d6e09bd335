public import Configuration
import Core
public import Scheduling

/// `session-id-producer`: the client's session, by a header or a cookie.
public final class SessionIDProducer: RequestProcessor, DataProducer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "session-id-producer"
    /// Its type and name.
    public let name: PluginName

    private let header: String
    private let cookie: String?

    /// Parameters: `headerName` (x-session-id) or `cookieName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        let header = source.parameters.optional("headerName")
        let cookie = source.parameters.optional("cookieName")
        if let header, cookie != nil {
            throw header.error("cannot stand beside cookieName")
        }
        self.header = try header?.string().lowercased() ?? "x-session-id"
        self.cookie = try cookie?.string()
    }

    /// Reads the session.
    public func process(_ request: inout SchedulingRequest) {
        let value =
            if let cookie {
                request.headers.value(ofHeader: "cookie").flatMap { Self.cookie(cookie, in: $0) }
            } else {
                request.headers.value(ofHeader: header)
            }
        if let value, !value.isEmpty { request.sessionID = value }
    }

    /// Has done its work before.
    public func produce(into context: inout SchedulingContext) {}

    /// The value of a cookie in a `Cookie` header (RFC 6265 section 4.2).
    static func cookie(_ name: String, in header: String) -> String? {
        for pair in header.split(separator: ";") {
            let pair = pair.drop { $0 == " " }
            guard let equals = pair.firstIndex(of: "="), pair[..<equals] == name else { continue }
            return String(pair[pair.index(after: equals)...])
        }
        return nil
    }
}
