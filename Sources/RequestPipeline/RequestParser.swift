import Core
import Scan

/// The APIs whose bodies the router reads.
enum RequestKind {
    /// `/v1/completions`.
    case completions
    /// `/v1/chat/completions`.
    case chat
    /// Anything else: passed on unread.
    case opaque

    init(method: String, path: some StringProtocol) {
        self =
            switch (method, path) {
            case ("POST", "/v1/completions"): .completions
            case ("POST", "/v1/chat/completions"): .chat
            default: .opaque
            }
    }

    /// Where engines show the token ids of such a request.
    var renderPath: String {
        self == .chat ? "/v1/chat/completions/render" : "/v1/completions/render"
    }
}

/// What the router needs to know of a request's body.
struct ParsedRequest {
    /// The prompt whose prefix may be cached.
    enum Prompt {
        /// Token ids, as the client gave them.
        case tokens([UInt32])
        /// Text at a place in the body, of which only an engine can tell the token ids.
        case text(Range<Int>)
        /// None.
        case none
    }

    /// The model that the client asked for.
    var model: String
    /// The prompt; the first one of a batch.
    var prompt: Prompt
    /// What else tells prompts apart in the prefix cache.
    var cacheSalt: String?
    /// Whether the response comes token by token.
    var isStreaming: Bool

    /// Tokens of the prompt, four bytes of text counting as one.
    var promptTokenCount: Int {
        switch prompt {
        case .tokens(let tokens): tokens.count
        case .text(let range): range.count / 4
        case .none: 0
        }
    }

    /// Reads a body of `kind`, which is not opaque.
    ///
    /// - Throws: 400 where the router cannot do its part. What it does not read is left for the
    ///   engine to check.
    init(_ document: JSONDocument, kind: RequestKind) throws(APIError) {
        guard document.root.kind == .object else {
            throw .badRequest("The request body is not a JSON object.")
        }
        guard let model = document["model"], !model.isNull else {
            throw .badRequest("The request names no model.", param: "model")
        }
        guard let name = model.string else {
            throw .badRequest("The model must be a string.", param: "model")
        }
        self.model = name
        cacheSalt = document["cache_salt"]?.string
        isStreaming = document["stream"]?.bool ?? false
        switch kind {
        case .chat:
            prompt = document["messages"].map { .text($0.contentRange) } ?? .none
        default:
            prompt =
                try document["prompt"].map { (value) throws(APIError) in
                    try Self.prompt(value)
                } ?? .none
        }
    }

    /// The first prompt of the value of `prompt`: a string, token ids, or a list of either.
    private static func prompt(_ value: JSONValue) throws(APIError) -> Prompt {
        switch value.kind {
        case .string: return .text(value.contentRange)
        case .array:
            var elements = value.elements
            guard let first = elements.next() else { return .none }
            if first.kind == .string || first.kind == .array { return try prompt(first) }
            var tokens: [UInt32] = []
            do {
                try value.tokenIDs(into: &tokens)
            } catch {
                throw .badRequest(
                    "The prompt is no list of token ids: \(error).", param: "prompt")
            }
            return .tokens(tokens)
        default: return .none
        }
    }
}

extension JSONValue {
    /// Where its text lies without quotes or brackets: that of a conversation that goes on begins
    /// with that of the conversation so far.
    fileprivate var contentRange: Range<Int> {
        byteRange.count < 2 ? byteRange : (byteRange.lowerBound + 1)..<(byteRange.upperBound - 1)
    }
}

extension APIError {
    /// 400: the body is not JSON, in the shape that vLLM gives it.
    static func malformedJSON(_ error: ScanError) -> APIError {
        APIError(
            status: 400, type: "Bad Request",
            message: "JSON decode error: \(error).", param: "body.\(error.offset)")
    }

    /// 404: no endpoint serves the model, in vLLM's words.
    static func unknownModel(_ model: String, known: [String]) -> APIError {
        .notFound(
            "The model `\(model)` does not exist. Valid aliases: "
                + "\(known.joined(separator: ", ")).",
            param: "model")
    }
}
