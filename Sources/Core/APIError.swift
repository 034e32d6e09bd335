/// A failure that the client of an API sees.
public struct APIError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The HTTP status.
    public var status: Int
    /// vLLM's name of the class of failure, such as `NotFoundError`.
    public var type: String
    /// What was wrong, for people.
    public var message: String
    /// The field of the body that was wrong, if one was.
    public var param: String?
    /// OpenAI's name of the failure, such as `invalid_api_key`, in place of the status.
    public var code: String?
    /// Response headers beside the body's own, such as `x-llm-d-request-dropped-reason`.
    public var headers: [Header]
    /// How the client's API writes errors.
    public var shape = Shape.openAI

    /// How an API writes errors.
    public enum Shape: Sendable {
        /// As vLLM does for the OpenAI API: `{"error":{"message":…,"type":…,"param":…,"code":…}}`,
        /// `code` being the HTTP status.
        case openAI
        /// As the Anthropic API does: `{"type":"error","error":{"type":…,"message":…}}`, the type
        /// being one of that API's.
        case anthropic

        /// The shape of the API that a path, without its query, belongs to.
        public init(path: Substring) {
            let isMessages =
                path.hasUTF8Suffix("/v1/messages".utf8)
                || path.hasUTF8Suffix("/v1/messages/count_tokens".utf8)
            self = isMessages ? .anthropic : .openAI
        }
    }

    /// A response header.
    public struct Header: Equatable, Sendable {
        /// Lower-case name.
        public var name: String
        /// Value.
        public var value: String

        /// Makes a header.
        public init(_ name: String, _ value: String) {
            self.name = name
            self.value = value
        }
    }

    /// Makes an error of any status.
    public init(
        status: Int, type: String, message: String, param: String? = nil, code: String? = nil,
        headers: [Header] = []
    ) {
        self.status = status
        self.type = type
        self.message = message
        self.param = param
        self.code = code
        self.headers = headers
    }

    /// 400: the request cannot be understood.
    public static func badRequest(_ message: String, param: String? = nil) -> APIError {
        APIError(status: 400, type: "BadRequestError", message: message, param: param)
    }

    /// 404: no such model, adapter or route.
    public static func notFound(_ message: String, param: String? = nil) -> APIError {
        APIError(status: 404, type: "NotFoundError", message: message, param: param)
    }

    /// 408: the client was slow.
    public static func requestTimeout(_ message: String) -> APIError {
        APIError(status: 408, type: "RequestTimeout", message: message)
    }

    /// 413: the body is longer than `limitBytes`.
    public static func tooLarge(limitBytes: Int) -> APIError {
        APIError(
            status: 413, type: "RequestEntityTooLarge",
            message: "The request body is longer than \(limitBytes) bytes.")
    }

    /// 429 or 503: the router dropped the request; `reason` goes to
    /// `x-llm-d-request-dropped-reason`.
    public static func dropped(status: Int, reason: DropReason, _ message: String) -> APIError {
        APIError(
            status: status, type: status == 429 ? "TooManyRequests" : "ServiceUnavailable",
            message: message,
            headers: [Header("x-llm-d-request-dropped-reason", reason.rawValue)])
    }

    /// 412: the client wanted the request served only where its prompt is cached.
    public static func preconditionFailed(_ message: String) -> APIError {
        APIError(status: 412, type: "PreconditionFailed", message: message)
    }

    /// 502: the model server failed before it answered.
    public static func badGateway(_ message: String) -> APIError {
        APIError(status: 502, type: "BadGateway", message: message)
    }

    /// 504: the model server did not answer in time.
    public static func gatewayTimeout(_ message: String) -> APIError {
        APIError(status: 504, type: "GatewayTimeout", message: message)
    }

    /// The same error in another shape.
    public func shaped(as shape: Shape) -> APIError {
        var error = self
        error.shape = shape
        return error
    }

    /// The JSON body.
    public var body: String {
        if shape == .anthropic {
            return
                "{\"type\":\"error\",\"error\":{\"type\":\"\(anthropicType)\","
                + "\"message\":\"\(message.jsonEscaped)\"}}"
        }
        let param = param.map { "\"\($0.jsonEscaped)\"" } ?? "null"
        let code = code.map { "\"\($0.jsonEscaped)\"" } ?? "\(status)"
        return
            "{\"error\":{\"message\":\"\(message.jsonEscaped)\",\"type\":\"\(type.jsonEscaped)\","
            + "\"param\":\(param),\"code\":\(code)}}"
    }

    /// The error as a server-sent event, for a stream that has begun.
    public var event: String {
        (shape == .anthropic ? "event: error\n" : "") + "data: \(body)\n\n"
    }

    private var anthropicType: String {
        switch status {
        case 401: "authentication_error"
        case 403: "permission_error"
        case 404: "not_found_error"
        case 413: "request_too_large"
        case 429: "rate_limit_error"
        case 400..<500: "invalid_request_error"
        case 503: "overloaded_error"
        case 504: "timeout_error"
        default: "api_error"
        }
    }

    /// One line for logs.
    public var description: String { "\(status) \(type): \(message)" }
}

/// Why the router dropped a request, by the values of `x-llm-d-request-dropped-reason`.
public enum DropReason: String, Sendable {
    case saturated = "rejected-saturated"
    case noEndpoints = "rejected-no-endpoints"
    case expired = "rejected-ttl-expired"
    case shuttingDown = "rejected-shutting-down"
    case evicted = "evicted"
}

extension String {
    /// The string as it stands between the quotes of a JSON string (RFC 8259 section 7).
    public var jsonEscaped: String {
        var escaped = ""
        escaped.reserveCapacity(utf8.count)
        for scalar in unicodeScalars {
            switch scalar {
            case "\"": escaped += "\\\""
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\r": escaped += "\\r"
            case "\t": escaped += "\\t"
            case _ where scalar.value < 0x20:
                let hex = String(scalar.value, radix: 16)
                escaped += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
