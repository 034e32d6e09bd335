package import Core
import Scan

/// Tokens by which a call is billed.
package struct Usage: Equatable, Sendable {
    /// Of all prompts, each once.
    package var promptTokens: Int
    /// Of all replies so far.
    package var completionTokens: Int
    /// Prompt tokens that no engine computed.
    package var cachedTokens: Int

    /// Makes a usage.
    package init(promptTokens: Int, completionTokens: Int, cachedTokens: Int) {
        self.promptTokens = promptTokens
        self.completionTokens = completionTokens
        self.cachedTokens = cachedTokens
    }
}

/// Writes what one call of a generation API gets back, field by field as vLLM 0.32 does.
package struct ReplyFormat: Sendable {
    /// One reply, or what is new of it.
    package struct Choice: Sendable {
        /// Its place among the choices.
        package var index: Int
        /// What precedes the text; needs escaping.
        package var echo = ""
        /// The text; needs no escaping.
        package var text: ArraySlice<UInt8>
        /// The tokens, if they were asked for.
        package var tokenIDs: [UInt32]?
        /// The prompt's tokens, if they were asked for.
        package var promptTokenIDs: [UInt32]?
        /// The log probabilities of the text, if they were asked for.
        package var logprobs: TokenLogprobs?
        /// The reply that has come to its end.
        package var ended: Reply?

        /// A piece of a reply.
        package init(index: Int, text: ArraySlice<UInt8>, ended: Reply? = nil) {
            self.index = index
            self.text = text
            self.ended = ended
        }
    }

    /// The id of the whole call.
    package let id: String
    private let api: GenerationAPI
    private let created: Int
    private let model: String
    private let fingerprint: String
    /// How every chunk begins, up to the choices.
    private let chunkHead: [UInt8]

    /// The format of one call; `created` is seconds since 1970.
    package init(
        api: GenerationAPI, id: String, created: Int, model: String, fingerprint: String
    ) {
        self.api = api
        self.id = id
        self.created = created
        self.model = model
        self.fingerprint = fingerprint
        var head = JSONWriter()
        head.outside("data: {")
        head.member("id", id)
        head.member("object", api == .chat ? "chat.completion.chunk" : "text_completion")
        head.member("created", created)
        head.member("model", model)
        head.key("choices")
        head.beginArray()
        chunkHead = head.bytes
    }

    // MARK: - Whole replies

    /// The body of a call that does not stream. `kept` is the request whose KV cache another
    /// engine may pull from `transfer`, whose pool is in `epoch`.
    package func body(
        _ choices: [Choice], usage: Usage, kept: EngineRequest?, transfer: TransferIdentity,
        epoch: UInt64
    ) -> [UInt8] {
        var json = JSONWriter(capacity: 1024 + choices.reduce(0) { $0 + $1.text.count })
        json.beginObject()
        json.member("id", id)
        json.member("object", api == .chat ? "chat.completion" : "text_completion")
        json.member("created", created)
        json.member("model", model)
        json.key("choices")
        json.beginArray()
        for choice in choices { write(choice, to: &json) }
        json.endArray()
        json.nullMember("service_tier")
        json.member("system_fingerprint", fingerprint)
        json.key("usage")
        json.beginObject()
        json.member("prompt_tokens", usage.promptTokens)
        json.member("total_tokens", usage.promptTokens + usage.completionTokens)
        json.member("completion_tokens", usage.completionTokens)
        json.key("prompt_tokens_details")
        json.beginObject()
        json.member("cached_tokens", usage.cachedTokens)
        json.nullMember("created_cache_tokens")
        json.nullMember("multimodal_tokens")
        json.endObject()
        json.nullMember("completion_tokens_details")
        json.endObject()
        if api == .chat {
            json.nullMember("prompt_logprobs")
            json.member("prompt_token_ids", choices.first?.promptTokenIDs)
            json.nullMember("prompt_text")
        }
        json.key("kv_transfer_params")
        if let kept { transfer.write(kept, epoch, to: &json) } else { json.null() }
        json.nullMember("ec_transfer_params")
        json.nullMember("metrics")
        json.endObject()
        return json.bytes
    }

    private func write(_ choice: Choice, to json: inout JSONWriter) {
        let text = choice.echo + String(decoding: choice.text, as: UTF8.self)
        json.beginObject()
        json.member("index", choice.index)
        switch api {
        case .completions:
            json.member("text", text)
        case .chat:
            json.key("message")
            json.beginObject()
            json.member("role", "assistant")
            json.member("content", text)
            for field in ["refusal", "annotations", "audio", "function_call", "reasoning"] {
                json.nullMember(field)
            }
            json.endObject()
        }
        json.key("logprobs")
        if let logprobs = choice.logprobs { logprobs.write(api, to: &json) } else { json.null() }
        json.member("finish_reason", choice.ended?.finishReason.rawValue ?? "")
        json.key("stop_reason")
        switch choice.ended?.stopReason {
        case .text(let stop)?: json.string(stop)
        case .token(let stop)?: json.int(Int(stop))
        case nil: json.null()
        }
        json.member("token_ids", choice.tokenIDs)
        if api == .completions {
            json.nullMember("prompt_logprobs")
            json.member("prompt_token_ids", choice.promptTokenIDs)
        }
        json.nullMember("routed_experts")
        json.endObject()
    }

    // MARK: - Chunks

    /// Appends the chunk that opens a choice of a chat.
    package func appendOpening(
        index: Int, usage: Usage?, promptTokenIDs: [UInt32]?, to bytes: inout [UInt8]
    ) {
        bytes += chunkHead
        bytes.append(#"{"index":"#)
        bytes.append(index)
        bytes.append(
            #","delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#)
        if let usage { append(usage, to: &bytes) }
        bytes.append(#","prompt_token_ids":"#)
        bytes.append(promptTokenIDs)
        bytes.append(",\"prompt_text\":null}\n\n")
    }

    /// Appends a chunk with what is new of a choice. The last one of a stream says so, unless a
    /// chunk with the usage follows.
    package func append(
        _ choice: Choice, usage: Usage?, isLast: Bool, to bytes: inout [UInt8]
    ) {
        bytes += chunkHead
        bytes.append(#"{"index":"#)
        bytes.append(choice.index)
        bytes.append(api == .chat ? #","delta":{"content":""# : #","text":""#)
        if !choice.echo.isEmpty { bytes += choice.echo.jsonEscaped.utf8 }
        bytes += choice.text
        bytes.append(api == .chat ? #""},"logprobs":"# : #"","logprobs":"#)
        if let logprobs = choice.logprobs {
            var json = JSONWriter()
            logprobs.write(api, to: &json)
            bytes += json.bytes
        } else {
            bytes.append("null")
        }
        if let reply = choice.ended {
            bytes.append(#","finish_reason":""#)
            bytes += reply.finishReason.rawValue.utf8
            bytes.append(#"","stop_reason":"#)
            switch reply.stopReason {
            case .text(let stop)?: bytes += "\"\(stop.jsonEscaped)\"".utf8
            case .token(let stop)?: bytes.append(Int(stop))
            case nil: bytes.append("null")
            }
        } else {
            bytes.append(#","finish_reason":null"#)
            if api == .completions { bytes.append(#","stop_reason":null"#) }
        }
        if api == .completions {
            bytes.append(#","prompt_token_ids":"#)
            bytes.append(choice.promptTokenIDs)
        }
        bytes.append(#","token_ids":"#)
        bytes.append(choice.tokenIDs)
        bytes.append("}]")
        if let usage { append(usage, to: &bytes) }
        if isLast { appendFingerprint(to: &bytes) }
        bytes.append("}\n\n")
    }

    /// Appends the chunk that follows all others where usage was asked for.
    package func appendUsage(_ usage: Usage, to bytes: inout [UInt8]) {
        bytes += chunkHead
        bytes.append("]")
        appendTotals(of: usage, to: &bytes)
        bytes.append(#","prompt_tokens_details":{"cached_tokens":"#)
        bytes.append(usage.cachedTokens)
        bytes.append("}}")
        appendFingerprint(to: &bytes)
        bytes.append("}\n\n")
    }

    /// Appends an error in the middle of a stream.
    package static func append(_ error: APIError, to bytes: inout [UInt8]) {
        bytes += "data: \(error.body)\n\n".utf8
    }

    /// Appends the end of a stream.
    package static func appendDone(to bytes: inout [UInt8]) {
        bytes.append("data: [DONE]\n\n")
    }

    private func append(_ usage: Usage, to bytes: inout [UInt8]) {
        appendTotals(of: usage, to: &bytes)
        bytes.append(#","completion_tokens_details":null}"#)
    }

    private func appendTotals(of usage: Usage, to bytes: inout [UInt8]) {
        bytes.append(#","usage":{"prompt_tokens":"#)
        bytes.append(usage.promptTokens)
        bytes.append(#","total_tokens":"#)
        bytes.append(usage.promptTokens + usage.completionTokens)
        bytes.append(#","completion_tokens":"#)
        bytes.append(usage.completionTokens)
    }

    private func appendFingerprint(to bytes: inout [UInt8]) {
        bytes.append(#","system_fingerprint":""#)
        bytes += fingerprint.utf8
        bytes.append("\"")
    }
}

/// How another engine reaches this one's KV blocks.
package struct TransferIdentity: Sendable {
    /// The identity of the transfer side.
    package var engineID: String
    /// Where it listens.
    package var address: SocketAddress

    /// Names an engine.
    package init(engineID: String, address: SocketAddress) {
        self.engineID = engineID
        self.address = address
    }

    /// Writes the `kv_transfer_params` by which another engine can pull a request's blocks.
    fileprivate func write(
        _ request: EngineRequest, _ epoch: UInt64, to json: inout JSONWriter
    ) {
        json.beginObject()
        json.member("do_remote_prefill", true)
        json.member("do_remote_decode", false)
        json.key("remote_block_ids")
        json.beginArray()
        json.array(request.blocks.map { Int($0) })
        json.endArray()
        json.member("remote_engine_id", engineID)
        json.member("remote_request_id", request.id)
        json.member("remote_host", address.host)
        json.member("remote_port", Int(address.port))
        for field in ["tp_size", "dcp_size", "pp_size"] { json.member(field, 1) }
        json.member("remote_num_tokens", request.prompt.count)
        json.nullMember("remote_blocks_expiry_time")
        json.member("transfer_mode", "pull")
        json.member("remote_prefill_cached_tokens", request.cachedTokenCount)
        json.member("llmd_pool_epoch", Int(epoch))
        json.endObject()
    }
}

extension JSONWriter {
    /// Writes a key and null.
    mutating func nullMember(_ key: String) {
        self.key(key)
        null()
    }

    /// Writes a key and a list of token ids, or null.
    mutating func member(_ key: String, _ tokens: [UInt32]?) {
        self.key(key)
        if let tokens { array(tokens.map { Int($0) }) } else { null() }
    }

    /// Writes a list of integers.
    mutating func array(_ numbers: [Int]) {
        beginArray()
        for number in numbers { int(number) }
        endArray()
    }
}

extension [UInt8] {
    fileprivate mutating func append(_ text: StaticString) {
        text.withUTF8Buffer { append(contentsOf: $0) }
    }

    fileprivate mutating func append(_ number: Int) {
        append(contentsOf: String(number).utf8)
    }

    fileprivate mutating func append(_ tokens: [UInt32]?) {
        guard let tokens else { return append("null") }
        append("[")
        for (index, token) in tokens.enumerated() {
            if index > 0 { append(",") }
            append(Int(token))
        }
        append("]")
    }
}
