internal import Scan

/// Why a request over HTTP is refused. The body has the shape of Mooncake's conductor:
/// `{"error":"…","reason":"…","field":"…","index":…}`, the last two where they mean something.
public struct IndexerError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The class of failure: the conductor's words, and below them those that it has no word for.
    public enum Reason: String, Sendable {
        case invalidJSON = "invalid_json"
        case unknownField = "unknown_field"
        case missing
        case invalidType = "invalid_type"
        case invalidValue = "invalid_value"
        case outOfRange = "out_of_range"
        case unsupported
        case invalidRegistration = "invalid_registration"

        case notFound = "not_found"
        case methodNotAllowed = "method_not_allowed"
        case tooLarge = "too_large"
        case unsupportedMediaType = "unsupported_media_type"
        case tooManyRegistrations = "too_many_registrations"
    }

    /// The class of failure.
    public var reason: Reason
    /// What was wrong, for people.
    public var message: String
    /// The member of the body that was wrong, if one was.
    public var field: String?
    /// The element of `field` that was wrong, if one was.
    public var index: Int?

    init(_ reason: Reason, _ message: String, field: String? = nil, index: Int? = nil) {
        self.reason = reason
        self.message = message
        self.field = field
        self.index = index
    }

    /// The HTTP status.
    public var status: Int {
        switch reason {
        case .notFound: 404
        case .methodNotAllowed: 405
        case .tooLarge: 413
        case .unsupportedMediaType: 415
        case .tooManyRegistrations: 503
        default: 400
        }
    }

    /// The JSON body.
    public var body: [UInt8] {
        var json = JSONWriter()
        json.beginObject()
        json.member("error", message)
        json.member("reason", reason.rawValue)
        if let field { json.member("field", field) }
        if let index { json.member("index", index) }
        json.endObject()
        return json.bytes
    }

    /// One line for logs.
    public var description: String { "\(reason.rawValue): \(message)" }
}
