import Core
import Messaging
import Scan

/// What the routes beside generation answer.
struct ModelAPI {
    private let configuration: SimulatorConfiguration
    private let adapters: LoRAAdapters

    init(_ configuration: SimulatorConfiguration, _ adapters: LoRAAdapters) {
        self.configuration = configuration
        self.adapters = adapters
    }

    /// The adapter that a model's name stands for; nil for the model itself. No name means that.
    ///
    /// - Throws: 404 for a name that nothing is served by.
    @discardableResult
    func adapter(named name: String?) throws(APIError) -> LoRAAdapter? {
        guard let name, !name.isEmpty, !configuration.modelNames.contains(name) else { return nil }
        if let adapter = adapters[name] { return adapter }
        throw .notFound(
            "The model `\(name)` does not exist. "
                + "Valid aliases: \(configuration.modelNames.joined(separator: ", ")).",
            param: "model")
    }

    func models() -> JSONWriter {
        let created = Int(wallClockSeconds())
        var json = JSONWriter(capacity: 1024)
        json.beginObject()
        json.member("object", "list")
        json.key("data")
        json.beginArray()
        for name in configuration.modelNames {
            write(name, root: configuration.model, parent: nil, created, to: &json)
        }
        for adapter in adapters.all {
            write(
                adapter.module.name, root: adapter.module.path,
                parent: configuration.modelNames[0], created, to: &json)
        }
        json.endArray()
        json.endObject()
        return json
    }

    /// `parent` is the model of an adapter.
    private func write(
        _ id: String, root: String, parent: String?, _ created: Int, to json: inout JSONWriter
    ) {
        json.beginObject()
        json.member("id", id)
        json.member("object", "model")
        json.member("created", created)
        json.member("owned_by", "vllm")
        json.member("root", root)
        if let parent {
            json.member("parent", parent)
            json.nullMember("max_model_len")
        } else {
            json.nullMember("parent")
            json.member("max_model_len", configuration.maximumModelLength)
        }
        json.key("permission")
        json.beginArray()
        json.beginObject()
        json.member("id", "modelperm-\(randomHex(digits: 16))")
        json.member("object", "model_permission")
        json.member("created", created)
        json.member("allow_create_engine", false)
        json.member("allow_sampling", true)
        json.member("allow_logprobs", true)
        json.member("allow_search_indices", false)
        json.member("allow_view", true)
        json.member("allow_fine_tuning", false)
        json.member("organization", "*")
        json.nullMember("group")
        json.member("is_blocking", false)
        json.endObject()
        json.endArray()
        json.endObject()
    }

    /// What `/v1/load_lora_adapter` asks for.
    static func loading(
        _ document: JSONDocument
    ) throws(APIError) -> (module: LoRAModule, inPlace: Bool) {
        let body = try RequestBodyReader(document)
        let module = LoRAModule(
            name: try body.requiredString("lora_name"), path: try body.requiredString("lora_path"))
        return (module, try body.bool("load_inplace") ?? false)
    }

    /// The adapter that `/v1/unload_lora_adapter` names.
    static func unloading(_ document: JSONDocument) throws(APIError) -> String {
        try RequestBodyReader(document).requiredString("lora_name")
    }

    /// The tokens that a call would be served with: an object for a chat, a list for completions.
    func render(_ call: GenerationRequest) throws(APIError) -> JSONWriter {
        try adapter(named: call.model)
        var json = JSONWriter()
        if call.api == .completions { json.beginArray() }
        for prompt in call.prompts { try render(call, prompt.tokens, to: &json) }
        if call.api == .completions { json.endArray() }
        return json
    }

    private func render(
        _ call: GenerationRequest, _ tokens: [UInt32], to json: inout JSONWriter
    ) throws(APIError) {
        let maxTokens = try call.maxTokens(
            promptCount: tokens.count, modelLength: configuration.maximumModelLength)
        json.beginObject()
        json.member(
            "request_id",
            (call.api == .chat ? "chatcmpl-" : "cmpl-") + randomHex(digits: 16))
        json.member("token_ids", tokens)
        for field in ["token_offsets", "features", "content_parts"] { json.nullMember(field) }
        json.key("sampling_params")
        json.beginObject()
        json.member("presence_penalty", 0.0)
        json.member("frequency_penalty", 0.0)
        json.member("repetition_penalty", 1.0)
        json.member("temperature", call.temperature)
        json.member("top_p", 1.0)
        json.member("min_p", 0.0)
        json.key("stop")
        json.beginArray()
        for stop in call.stop { json.string(stop) }
        json.endArray()
        json.key("stop_token_ids")
        json.array(call.stopTokens.map { Int($0) })
        // vLLM leaves out what is as its default, which is 16.
        if maxTokens != 16 { json.member("max_tokens", maxTokens) }
        json.member("output_kind", 2)
        json.member("skip_clone", true)
        json.key("bad_words")
        json.array([])
        json.member("skip_reading_prefix_cache", false)
        json.endObject()
        json.member("model", call.model ?? configuration.modelNames[0])
        for field in ["reasoning_ended", "reasoning_parser_kwargs", "return_token_ids"] {
            json.nullMember(field)
        }
        json.member("output_mode", "tokens")
        json.member("stream", call.streams)
        json.nullMember("stream_options")
        json.key("cache_salt")
        if let salt = call.salt { json.string(salt) } else { json.null() }
        json.member("priority", 0)
        json.nullMember("kv_transfer_params")
        json.nullMember("ec_transfer_params")
        json.endObject()
    }

    /// The tokens of a prompt, or of a conversation.
    func tokenize(_ document: JSONDocument) throws(APIError) -> JSONWriter {
        let body = try RequestBodyReader(document)
        try adapter(named: try body.string("model"))
        let text: String
        if let prompt = try body.string("prompt") {
            text = prompt
        } else {
            let addsPrompt = try body.bool("add_generation_prompt") ?? true
            text = ChatTemplate.render(try body.messages(), addGenerationPrompt: addsPrompt)
        }
        let tokens = ByteTokenizer.encode(text)
        var json = JSONWriter(capacity: tokens.count * 4 + 128)
        json.beginObject()
        json.member("count", tokens.count)
        json.member("max_model_len", configuration.maximumModelLength)
        json.member("tokens", tokens)
        json.key("token_strs")
        if try body.bool("return_token_strs") ?? false {
            json.beginArray()
            for token in tokens { json.string(ByteTokenizer.name(of: token)) }
            json.endArray()
        } else {
            json.null()
        }
        json.endObject()
        return json
    }

    /// The text of tokens.
    func detokenize(_ document: JSONDocument) throws(APIError) -> JSONWriter {
        let body = try RequestBodyReader(document)
        try adapter(named: try body.string("model"))
        guard let tokens = body.value("tokens") else {
            throw body.mismatch("missing", "Field required", document.root, "tokens")
        }
        var json = JSONWriter()
        json.beginObject()
        json.member("prompt", ByteTokenizer.decode(try body.tokenIDs(tokens, "tokens")))
        json.endObject()
        return json
    }

    /// The release of vLLM whose API this is, marked as not vLLM's own.
    func version() -> JSONWriter {
        var json = JSONWriter()
        json.beginObject()
        json.member("version", "0.32.0+llmd.sim")
        json.endObject()
        return json
    }

    func load(_ requestCount: Int) -> JSONWriter {
        var json = JSONWriter()
        json.beginObject()
        json.member("server_load", requestCount)
        json.endObject()
        return json
    }

    /// Where KV events can be had, by data-parallel rank.
    func eventSources(_ endpoints: (live: String, replay: String?)?) -> JSONWriter {
        var json = JSONWriter()
        json.beginObject()
        if let endpoints {
            json.key("0")
            json.beginObject()
            json.member("enable_kv_cache_events", true)
            json.member("publisher", "zmq")
            json.member("endpoint", endpoints.live)
            json.key("replay_endpoint")
            if let replay = endpoints.replay { json.string(replay) } else { json.null() }
            let publisher = KVEventPublisher.Configuration()
            json.member("buffer_steps", publisher.bufferedBatchCount)
            json.member("hwm", publisher.highWaterCount)
            json.member("max_queue_size", publisher.highWaterCount)
            json.member("topic", configuration.topic)
            json.endObject()
        }
        json.endObject()
        return json
    }
}
