import Core
import Scan
import Scheduling

/// What the router needs to know of a request's body.
struct ParsedRequest {
    /// The prompt whose prefix may be cached.
    enum Prompt {
        /// Token ids, as the client gave them.
        case tokens([UInt32])
        /// So many token ids that were read while the body came, of this value.
        case followed(Int, JSONValue)
        /// Text at places in the body, of which only an engine can tell the token ids. What stays
        /// from turn to turn, tools and instructions, comes first.
        case text([Range<Int>])
        /// None.
        case none
    }

    /// The model that the client asked for; nil if the body names none.
    var model: String?
    /// The prompt; the first one of a batch.
    var prompt = Prompt.none
    /// What else tells prompts apart in the prefix cache.
    var cacheSalt: String?
    /// Whether the response comes token by token.
    var isStreaming: Bool
    /// The most tokens to generate, if the client set a limit.
    var maximumOutputTokens: Int?

    /// Tokens of the prompt, four bytes of text counting as one.
    var promptTokenCount: Int {
        switch prompt {
        case .tokens(let tokens): tokens.count
        case .followed(let count, _): count
        case .text(let ranges): ranges.reduce(0) { $0 + $1.count } / 4
        case .none: 0
        }
    }

    /// What plugins are told of the body.
    func details(_ api: RequestAPI) -> RequestDetails {
        var details = RequestDetails()
        details.api = api
        details.isStreaming = isStreaming
        details.maximumOutputTokens = maximumOutputTokens
        return details
    }

    /// Reads a body of `api`, which is not opaque.
    ///
    /// `followed` is the prompt that was read while the body came.
    ///
    /// - Throws: 400 where the router cannot do its part. What it does not read is left for the
    ///   engine to check.
    init(
        _ document: JSONDocument, api: RequestAPI, followed: FollowedPrompt? = nil
    ) throws(APIError) {
        guard document.root.kind == .object else {
            throw .badRequest("The request body is not a JSON object.")
        }
        if let value = document["model"], !value.isNull {
            guard let name = value.string else {
                throw .badRequest("The model must be a string.", param: "model")
            }
            model = name
        }
        cacheSalt = document["cache_salt"]?.string
        isStreaming = document["stream"]?.bool ?? false
        switch api.promptMembers {
        case .prompt(let name): try readPrompt(document[name], param: name, followed)
        case .messages(let name, let others): readMessages(name, in: document, behind: others)
        case nil: break
        }
        switch api {
        case .completions, .messages: maximumOutputTokens = document["max_tokens"]?.int
        case .chat:
            maximumOutputTokens =
                document["max_completion_tokens"]?.int ?? document["max_tokens"]?.int
        case .responses: maximumOutputTokens = document["max_output_tokens"]?.int
        case .embeddings:
            if document["messages"] != nil {
                readMessages("messages", in: document, behind: [])
            } else {
                try readPrompt(document["input"], param: "input", nil)
            }
        case .generate: maximumOutputTokens = document["sampling_params"]?["max_tokens"]?.int
        case .named, .opaque: break
        }
    }

    /// Reads the first prompt of a value: a string, token ids, or a list of either.
    private mutating func readPrompt(
        _ value: JSONValue?, param: String, _ followed: FollowedPrompt?
    ) throws(APIError) {
        guard let value else { return }
        if let followed, let count = followed.tokenCount(of: value) {
            prompt = .followed(count, value)
            return
        }
        if value.kind == .string {
            prompt = .text([value.contentRange])
            return
        }
        var elements = value.elements
        guard let first = elements.next() else { return }
        if first.kind == .string || first.kind == .array {
            return try readPrompt(first, param: param, followed)
        }
        var tokens: [UInt32] = []
        do {
            try value.tokenIDs(into: &tokens)
        } catch {
            throw .badRequest("The \(param) is no list of token ids: \(error).", param: param)
        }
        prompt = .tokens(tokens)
    }

    /// Reads the member `name`, a text or a list of messages, behind `others`, which are part of
    /// the prompt, too.
    private mutating func readMessages(
        _ name: String, in document: JSONDocument, behind others: [String]
    ) {
        guard let messages = document[name], !messages.isNull else { return }
        let values = others.compactMap { document[$0] }.filter { !$0.isNull } + [messages]
        prompt = .text(values.map(\.contentRange))
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
    /// 400: the body names no model, and no rewrite gives it one.
    static var noModel: APIError {
        .badRequest("The request names no model.", param: "model")
    }

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
