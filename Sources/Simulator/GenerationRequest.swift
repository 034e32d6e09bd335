package import Core
package import Scan

/// The APIs that generate text.
package enum GenerationAPI: Sendable {
    case completions
    case chat
}

/// What the body of a completion or chat completion asks for.
package struct GenerationRequest: Sendable {
    /// What to continue.
    package enum Prompt: Equatable, Sendable {
        case text(String)
        case tokens([UInt32])

        /// Its tokens.
        package var tokens: [UInt32] {
            switch self {
            case .text(let text): ByteTokenizer.encode(text)
            case .tokens(let tokens): tokens
            }
        }

        /// Its text, as `echo` shows it.
        package var text: String {
            switch self {
            case .text(let text): text
            case .tokens(let tokens): ByteTokenizer.decode(tokens)
            }
        }
    }

    /// The API it came by.
    package var api: GenerationAPI
    /// The model's name, if it was given.
    package var model: String?
    /// At least one, except for completions that name none.
    package var prompts: [Prompt]
    /// Replies to each prompt.
    package var choiceCount = 1
    /// `max_completion_tokens` or `max_tokens`, and which of them.
    package var maxTokens: (field: String, value: Int)?
    /// Tokens before which a reply does not end by itself.
    package var minTokens = 0
    /// `ignore_eos`.
    package var ignoresEndOfSequence = false
    /// Texts that end a reply.
    package var stop: [String] = []
    /// `stop_token_ids`.
    package var stopTokens: [UInt32] = []
    /// `include_stop_str_in_output`.
    package var includesStop = false
    /// `temperature`; above 0 and without a seed, no two replies are the same.
    package var temperature = 1.0
    /// `seed`.
    package var seed: Int?
    /// Whether to send tokens as they come.
    package var streams = false
    /// `stream_options.include_usage`.
    package var includesUsage = false
    /// `stream_options.continuous_usage_stats`.
    package var includesUsageAlways = false
    /// Whether replies begin with the prompt; completions only.
    package var echoes = false
    /// How many of the likeliest tokens to list at each place of a reply: `logprobs` of a
    /// completion, `top_logprobs` of a chat; nil for no log probabilities.
    package var topLogprobs: Int?
    /// `return_token_ids`.
    package var returnsTokenIDs = false
    /// `cache_salt`.
    package var salt: String?
    /// KV cache to pull, by `kv_transfer_params.do_remote_prefill`.
    package var remote: RemoteKV?
    /// Whether to keep the KV cache for another engine: `kv_transfer_params.do_remote_decode`.
    package var keepsBlocks = false

    /// Reads a body.
    ///
    /// - Throws: 400 as vLLM words it.
    package init(_ document: JSONDocument, api: GenerationAPI) throws(APIError) {
        let body = try RequestBodyReader(document)
        self.api = api
        model = try body.string("model")
        switch api {
        case .completions: prompts = try Self.prompts(body)
        case .chat:
            let messages = try body.messages()
            let addsPrompt = try body.bool("add_generation_prompt") ?? true
            prompts = [.text(ChatTemplate.render(messages, addGenerationPrompt: addsPrompt))]
        }
        choiceCount = try body.int("n") ?? 1
        for field in ["max_completion_tokens", "max_tokens"] where maxTokens == nil {
            maxTokens = try body.int(field).map { (field, $0) }
        }
        minTokens = try body.int("min_tokens") ?? 0
        ignoresEndOfSequence = try body.bool("ignore_eos") ?? false
        stop = try body.stop()
        if let value = body.value("stop_token_ids") {
            stopTokens = try body.tokenIDs(value, "stop_token_ids")
        }
        includesStop = try body.bool("include_stop_str_in_output") ?? false
        temperature = try body.number("temperature") ?? 1
        seed = try body.int("seed")
        streams = try body.bool("stream") ?? false
        if let options = document["stream_options"], !options.isNull {
            guard streams else {
                throw .badRequest(
                    "Stream options can only be defined when `stream=True`.",
                    param: "stream_options")
            }
            let options = RequestBodyReader(options, path: "body.stream_options")
            includesUsage = try options.bool("include_usage") ?? false
            includesUsageAlways = try options.bool("continuous_usage_stats") ?? false
        }
        switch api {
        case .completions:
            echoes = try body.bool("echo") ?? false
            topLogprobs = try body.int("logprobs")
        case .chat: topLogprobs = try Self.topLogprobs(ofChat: body)
        }
        returnsTokenIDs = try body.bool("return_token_ids") ?? false
        salt = try body.string("cache_salt").flatMap { $0.isEmpty ? nil : $0 }
        if let parameters = document["kv_transfer_params"], parameters.kind == .object {
            keepsBlocks = parameters["do_remote_decode"]?.bool ?? false
            if parameters["do_remote_prefill"]?.bool == true { remote = RemoteKV(parameters) }
        }
        try checkLogprobs(body)
        try checkRanges()
    }

    /// The most tokens that a reply to a prompt of `promptCount` tokens may have.
    ///
    /// - Throws: 400 as vLLM words it, if they do not fit the model.
    package func maxTokens(promptCount: Int, modelLength: Int) throws(APIError) -> Int {
        func tooLong(_ rest: String) -> APIError {
            .badRequest(
                "This model's maximum context length is \(modelLength) tokens. However, \(rest) "
                    + "(parameter=input_tokens, value=\(promptCount))", param: "input_tokens")
        }
        if let (field, value) = maxTokens, value > modelLength {
            throw .badRequest(
                "\(field)=\(value) cannot be greater than max_model_len=\(modelLength). Please "
                    + "request fewer output tokens. (parameter=\(field), value=\(value))",
                param: field)
        }
        guard promptCount < modelLength else {
            throw tooLong(
                "your prompt contains \(promptCount) input tokens, which exceeds this limit even "
                    + "without any output tokens. Please reduce the length of the input prompt.")
        }
        guard let value = maxTokens?.value ?? defaultMaxTokens else {
            return modelLength - promptCount
        }
        guard promptCount + value <= modelLength else {
            throw tooLong(
                "you requested \(value) output tokens and your prompt contains at least "
                    + "\(promptCount) input tokens, for a total of at least "
                    + "\(promptCount + value) tokens. Please reduce the length of the input "
                    + "prompt or the number of requested output tokens.")
        }
        return value
    }

    /// Completions without a limit end after 16 tokens, as OpenAI's and vLLM's do; chats go on.
    private var defaultMaxTokens: Int? { api == .completions ? 16 : nil }

    private static func topLogprobs(ofChat body: RequestBodyReader) throws(APIError) -> Int? {
        let count = try body.int("top_logprobs")
        if try body.bool("logprobs") ?? false { return count ?? 0 }
        guard count ?? 0 == 0 else {
            throw .badRequest(
                "when using `top_logprobs`, `logprobs` must be set to true.", param: "top_logprobs")
        }
        return nil
    }

    private func checkLogprobs(_ body: RequestBodyReader) throws(APIError) {
        let field = api == .chat ? "top_logprobs" : "logprobs"
        if let topLogprobs, !(0...TokenLogprobs.maximumTopCount).contains(topLogprobs) {
            throw .badRequest(
                "Requested sample logprobs of \(topLogprobs), which is not between 0 and the "
                    + "maximum of \(TokenLogprobs.maximumTopCount). (parameter=\(field), "
                    + "value=\(topLogprobs))", param: field)
        }
        // A model that says its prompt with certainty would be a lie about every prompt.
        if body.value("prompt_logprobs") != nil || (echoes && topLogprobs != nil) {
            throw .badRequest(
                "This engine has no log probabilities of prompts.", param: "prompt_logprobs")
        }
    }

    private func checkRanges() throws(APIError) {
        func require(
            _ condition: Bool, _ field: String, _ value: some CustomStringConvertible,
            _ problem: String
        ) throws(APIError) {
            guard condition else {
                throw .badRequest("\(problem) (parameter=\(field), value=\(value))", param: field)
            }
        }
        try require(
            temperature >= 0, "temperature", temperature,
            "temperature must be non-negative, got \(temperature).")
        try require(
            choiceCount >= 1, "n", choiceCount, "n must be at least 1, got \(choiceCount).")
        if let (field, value) = maxTokens {
            try require(
                value >= 1, field, value, "\(field) must be at least 1, got \(value).")
            try require(
                minTokens <= value, "min_tokens", minTokens,
                "min_tokens must be less than or equal to max_tokens=\(value), got \(minTokens).")
        }
        try require(
            minTokens >= 0, "min_tokens", minTokens,
            "min_tokens must be greater than or equal to 0, got \(minTokens).")
        try require(
            !stop.contains(""), "stop", "", "stop cannot contain an empty string.")
    }

    private static func prompts(_ body: RequestBodyReader) throws(APIError) -> [Prompt] {
        guard let value = body.value("prompt") else {
            throw .badRequest(
                "Either prompt or prompt_embeds must be provided and non-empty.", param: "prompt")
        }
        if let text = value.string { return [.text(text)] }
        guard value.kind == .array else {
            throw body.mismatch("string_type", "Input should be a valid string", value, "prompt")
        }
        var elements = value.elements
        switch elements.next()?.kind {
        case nil: return [.tokens([])]
        case .number: return [.tokens(try body.tokenIDs(value, "prompt"))]
        default: break
        }
        var prompts: [Prompt] = []
        for element in value.elements {
            if let text = element.string {
                prompts.append(.text(text))
            } else {
                prompts.append(.tokens(try body.tokenIDs(element, "prompt")))
            }
        }
        return prompts
    }
}

extension RemoteKV {
    /// Reads `kv_transfer_params` as an engine that computed a prompt returned them; nil if they
    /// do not say all that a pull needs, in which case the prompt is computed here, as vLLM does.
    init?(_ parameters: JSONValue) {
        guard let engine = parameters["remote_engine_id"]?.string,
            let request = parameters["remote_request_id"]?.string,
            let host = parameters["remote_host"]?.string,
            let port = parameters["remote_port"]?.int.flatMap({ UInt16(exactly: $0) }),
            let groups = parameters["remote_block_ids"], groups.kind == .array
        else { return nil }
        // One list of blocks for each KV cache group; this engine has one group.
        var elements = groups.elements
        let first = elements.next()
        var blocks: [UInt32] = []
        guard (try? (first?.kind == .array ? first : groups)?.tokenIDs(into: &blocks)) != nil else {
            return nil
        }
        self.init(
            engineID: engine, requestID: request, address: SocketAddress(host: host, port: port),
            blocks: blocks,
            epoch: parameters["llmd_pool_epoch"]?.int.flatMap { UInt64(exactly: $0) } ?? 0,
            cachedTokenCount: parameters["remote_prefill_cached_tokens"]?.int.map { max($0, 0) })
    }
}
