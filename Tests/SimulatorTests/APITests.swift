import Core
import Foundation
import Net
import Simulator
import Testing

/// The HTTP API, held against what vLLM answered to the same requests.
@Suite(.timeLimit(.minutes(2))) struct APITests {
    /// Runs a test against an engine that is as the recorded one was.
    private func withEngine(
        _ change: (inout SimulatorConfiguration) -> Void = { _ in },
        _ body: (Harness, SimulatorServer) async throws -> Void
    ) async throws {
        let harness = try Harness()
        do {
            let engine = try await harness.start {
                $0.blockSize = 32
                change(&$0)
            }
            try await body(harness, engine)
        } catch {
            await harness.stop()
            throw error
        }
        await harness.stop()
    }

    private func replay(
        _ name: String, _ harness: Harness, _ engine: SimulatorServer
    ) async throws -> (ours: Answer, capture: [String: Any]) {
        let capture = try fixtureObject(name + ".json")
        let request = try #require(capture["request"] as? [String: Any])
        let path = request["path"] as? String ?? "/v1/completions"
        if request["method"] as? String == "GET" {
            return (try await harness.get(engine, path), capture)
        }
        let headers = request["headers"] as? [String: String] ?? [:]
        let raw = (request["raw_body"] as? String).map { Array($0.utf8) }
        let body = request["body"] as? [String: Any] ?? [:]
        let bytes = try raw ?? Array(JSONSerialization.data(withJSONObject: body))
        return (try await harness.post(engine, path, bytes, headers: headers), capture)
    }

    private func header(_ name: String, _ capture: [String: Any]) -> String? {
        (capture["headers"] as? [[String]])?.first { $0[0] == name }?[1]
    }

    @Test func wholeRepliesHaveVLLMsShape() async throws {
        try await withEngine { harness, engine in
            for name in [
                "chat", "completion", "completion_batch", "completion_n2_echo",
                "completion_prompt_token_ids", "completion_stop", "completion_tokenids_logprobs",
                "models", "tokenize_chat", "tokenize_completion", "tokenize_completion_strs",
            ] {
                let (ours, capture) = try await replay(name, harness, engine)
                let comment = Comment(rawValue: "\(name): \(ours.text)")
                #expect(ours.status == capture["status"] as? Int, comment)
                #expect(ours.headers[first: "content-type"] == "application/json", comment)
                let theirs = try #require(capture["body_json"])
                // The recorded server ran without prompt token details, and the keys of
                // top_logprobs are tokens.
                let differences = shapeDifferences(
                    try ours.json(), theirs,
                    exempt: [
                        "usage.prompt_tokens_details", "choices[].logprobs.top_logprobs[]",
                    ])
                #expect(differences == [], comment)
            }
        }
    }

    @Test func logprobs() async throws {
        try await withEngine { harness, engine in
            let body: [String: Any] = ["prompt": "a", "max_tokens": 3, "logprobs": 2, "seed": 1]
            let whole = try await harness.post(engine, "/v1/completions", body)
            let text = try #require(try whole.value("choices", 0, "text") as? String)
            let logprobs = ["choices", 0, "logprobs"] as [any Sendable]
            func list(_ field: String) throws -> [Any] {
                try #require(lookUp(try whole.json(), logprobs + [field]) as? [Any])
            }
            #expect(try list("tokens") as? [String] == text.map { String($0) })
            #expect(try list("token_logprobs") as? [Double] == [0, 0, 0])
            #expect(try list("text_offset") as? [Int] == [0, 1, 2])
            let top = try #require(try list("top_logprobs") as? [[String: Double]])
            #expect(top.map { $0.values.sorted() } == [[-9999, 0], [-9999, 0], [-9999, 0]])

            let stream = try await harness.post(
                engine, "/v1/completions", body.merging(["stream": true]) { $1 })
            let offsets = try stream.events.dropLast().flatMap { event in
                try #require(
                    lookUp(
                        try JSONSerialization.jsonObject(with: Data(event.utf8)),
                        logprobs + ["text_offset"]) as? [Int])
            }
            #expect(offsets == [0, 1, 2])

            let chat = try await harness.post(
                engine, "/v1/chat/completions",
                [
                    "messages": [["role": "user", "content": "a"]], "max_tokens": 2,
                    "logprobs": true, "top_logprobs": 3,
                ])
            let content = try #require(
                try chat.value("choices", 0, "logprobs", "content") as? [[String: Any]])
            #expect(content.count == 2)
            let token = try #require(content[1]["token"] as? String)
            #expect(content[1]["bytes"] as? [Int] == token.utf8.map { Int($0) })
            let likeliest = try #require(content[1]["top_logprobs"] as? [[String: Any]])
            #expect(likeliest.count == 3 && likeliest[0]["token"] as? String == token)
            #expect(Set(likeliest.compactMap { $0["token"] as? String }).count == 3)
        }
    }

    @Test func stopTokens() async throws {
        try await withEngine { harness, engine in
            var body: [String: Any] = [
                "prompt": "a", "max_tokens": 50, "temperature": 0, "ignore_eos": true,
            ]
            let full = try await harness.post(engine, "/v1/completions", body)
            let text = try #require(try full.value("choices", 0, "text") as? String)
            let last = try #require(text.utf8.last)
            body["stop_token_ids"] = [Int(last) + 3]
            let stopped = try await harness.post(engine, "/v1/completions", body)
            #expect(try stopped.value("choices", 0, "stop_reason") as? Int == Int(last) + 3)
            #expect(try stopped.value("choices", 0, "finish_reason") as? String == "stop")
            let index = try #require(text.firstIndex(of: Character(UnicodeScalar(last))))
            #expect(try stopped.value("choices", 0, "text") as? String == String(text[..<index]))
            body["stream"] = true
            let stream = try await harness.post(engine, "/v1/completions", body)
            #expect(try stream.streamedText() == String(text[..<index]))
            #expect(stream.text.contains("\"stop_reason\":\(Int(last) + 3)"))
        }
    }

    // MARK: - Adapters

    @Test func adaptersAreModels() async throws {
        try await withEngine({
            $0.maximumAdapters = 2
            $0.adapters = [LoRAModule(name: "adapter-a", path: "model/adapter-a")]
        }) { harness, engine in
            let (ours, capture) = try await replay("completion_lora", harness, engine)
            #expect(ours.status == 200)
            #expect(try ours.value("model") as? String == "adapter-a")
            #expect(
                shapeDifferences(
                    try ours.json(), try #require(capture["body_json"]),
                    exempt: ["usage.prompt_tokens_details"]) == [])

            func post(_ path: String, _ body: [String: Any]) async throws -> Answer {
                try await harness.post(engine, path, body)
            }
            let b: [String: Any] = ["lora_name": "adapter-b", "lora_path": "model/adapter-b"]
            let loaded = try await post("/v1/load_lora_adapter", b)
            #expect(loaded.status == 200)
            #expect(loaded.text == "Success: LoRA adapter 'adapter-b' added successfully.")
            let again = try await post("/v1/load_lora_adapter", b)
            #expect(again.status == 400)
            #expect(try again.value("error", "type") as? String == "InvalidUserInput")
            let inPlace = try await post(
                "/v1/load_lora_adapter", b.merging(["load_inplace": true]) { $1 })
            #expect(inPlace.status == 200)

            // The recorded list: the model and two adapters.
            let models = try await harness.get(engine, "/v1/models")
            let data = try #require(try models.value("data") as? [[String: Any]])
            let theirs = try #require(
                lookUp(try fixtureObject("models.json"), ["body_json", "data"])
                    as? [[String: Any]])
            #expect(data.count == theirs.count)
            for (our, their) in zip(data, theirs) {
                #expect(shapeDifferences(our, their) == [])
                #expect(our["id"] as? String == their["id"] as? String)
                #expect(our["parent"] as? String == their["parent"] as? String)
            }

            let unloaded = try await post("/v1/unload_lora_adapter", ["lora_name": "adapter-b"])
            #expect(unloaded.text == "Success: LoRA adapter 'adapter-b' removed successfully.")
            #expect(
                try await post("/v1/unload_lora_adapter", ["lora_name": "adapter-b"]).status == 404)
            #expect(
                try await post("/v1/completions", ["model": "adapter-b", "prompt": "a"]).status
                    == 404)
            let nameless = try await post("/v1/load_lora_adapter", ["lora_path": "p"])
            #expect(nameless.status == 400)
            #expect(try nameless.value("error", "param") as? String == "body.lora_name")

            let page = try await harness.get(engine, "/metrics").text
            let info =
                #"vllm:lora_requests_info{max_lora="2",running_lora_adapters="","#
                + #"waiting_lora_adapters=""} "#
            #expect(page.contains(info))
        }
    }

    @Test func adaptersThatRunAreInTheMetrics() async throws {
        try await withEngine({
            $0.maximumAdapters = 1
            $0.maximumResidentAdapters = 2
            $0.adapters = ["x", "y"].map { LoRAModule(name: $0, path: "/\($0)") }
            // Neither ends before the engine does, however slow the test is.
            $0.latency.interTokenLatency = .milliseconds(100)
        }) { (harness, engine) async throws in
            @Sendable func generate(_ model: String) async throws -> Int {
                let body: [String: Any] = [
                    "model": model, "prompt": "a", "max_tokens": 3000, "ignore_eos": true,
                ]
                return try await harness.post(engine, "/v1/completions", body).status
            }
            func shows(running: String, waiting: String) async throws -> Bool {
                let series =
                    #"vllm:lora_requests_info{max_lora="1",running_lora_adapters="\#(running)","#
                    + #"waiting_lora_adapters="\#(waiting)"}"#
                return try await harness.wait(engine, series) { $0 > 1e9 }
            }
            _ = Task { try await generate("x") }
            #expect(try await shows(running: "x", waiting: ""))
            _ = Task { try await generate("y") }
            #expect(try await shows(running: "x", waiting: "y"))
        }
    }

    @Test func anEngineWithoutAdaptersHasNoRoutesForThem() async throws {
        try await withEngine { harness, engine in
            let answer = try await harness.post(
                engine, "/v1/load_lora_adapter", ["lora_name": "a", "lora_path": "p"])
            #expect(answer.status == 404)
            #expect(try await !harness.get(engine, "/metrics").text.contains("lora"))
        }
    }

    @Test func adaptersShareNoCache() async throws {
        try await withEngine({
            $0.maximumAdapters = 2
            $0.adapters = [
                LoRAModule(name: "x", path: "/x"), LoRAModule(name: "y", path: "/y"),
            ]
        }) { harness, engine in
            func cached(_ model: String) async throws -> Int? {
                let body: [String: Any] = [
                    "model": model, "prompt": Array(repeating: 7, count: 100), "max_tokens": 1,
                ]
                return try await harness.post(engine, "/v1/completions", body)
                    .value("usage", "prompt_tokens_details", "cached_tokens") as? Int
            }
            for model in ["tiny-llama", "x", "y"] { #expect(try await cached(model) == 0) }
            for model in ["tiny-llama", "x", "y"] { #expect(try await cached(model) == 96) }
            // Other weights under the old name: what was cached is not theirs.
            _ = try await harness.post(
                engine, "/v1/load_lora_adapter",
                ["lora_name": "x", "lora_path": "/x2", "load_inplace": true])
            #expect(try await cached("x") == 0)
        }
    }

    @Test func rendersAsVLLMDoes() async throws {
        try await withEngine({
            $0.maximumModelLength = 512
        }) { harness, engine in
            for name in ["render_chat_enabled", "render_completions_enabled"] {
                let (ours, capture) = try await replay(name, harness, engine)
                let theirs = try #require(capture["body"])
                #expect(shapeDifferences(try ours.json(), theirs) == [], "\(name): \(ours.text)")
            }
            let chat = try await harness.post(
                engine, "/v1/chat/completions/render",
                ["messages": [["role": "user", "content": "Hello"]]])
            let prompt = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
            #expect(
                try chat.value("token_ids") as? [UInt32] == prompt.utf8.map { UInt32($0) + 3 })
            #expect(
                try chat.value("sampling_params", "max_tokens") as? Int == 512 - prompt.utf8.count)
        }
    }

    @Test(arguments: [
        "err_404", "err_405", "err_bad_field_type", "err_bad_json", "err_bad_temperature",
        "err_max_tokens_too_big", "err_missing_messages", "err_stream_unknown_model",
        "err_unknown_model", "err_unknown_model_chat",
    ])
    func errorsAreVLLMsOwn(name: String) async throws {
        try await withEngine { harness, engine in
            let (ours, capture) = try await replay(name, harness, engine)
            #expect(ours.headers[first: "content-type"] == "application/json")
            let text = capture["body_text"] as? String
            let theirs =
                try text.map { try JSONSerialization.jsonObject(with: Data($0.utf8)) }
                ?? capture["body_json"]
            #expect(ours.status == capture["status"] as? Int)
            #expect(
                try ours.json() as? NSDictionary == theirs as? NSDictionary, "\(ours.text)")
            #expect(ours.headers[first: "allow"] == header("allow", capture))
        }
    }

    @Test func tooLongPrompts() async throws {
        try await withEngine { harness, engine in
            let capture = try fixtureObject("err_prompt_too_long.json")
            let ours = try await harness.post(
                engine, "/v1/completions",
                ["prompt": Array(repeating: 7, count: 5000), "max_tokens": 4])
            #expect(ours.status == 400)
            #expect(
                try ours.json() as? NSDictionary == capture["body_json"] as? NSDictionary,
                "\(ours.text)")
            let sum = try await harness.post(
                engine, "/v1/completions",
                ["prompt": Array(repeating: 7, count: 4000), "max_tokens": 100])
            #expect(sum.status == 400)
            #expect(try sum.value("error", "param") as? String == "input_tokens")
        }
    }

    @Test func otherBadRequests() async throws {
        try await withEngine { harness, engine in
            let cases: [([String: Any], String)] = [
                (["prompt": "a", "n": 0], "n"),
                (["prompt": "a", "max_tokens": 0], "max_tokens"),
                (["prompt": "a", "max_tokens": 4, "min_tokens": 5], "min_tokens"),
                (["prompt": "a", "stop": ""], "stop"),
                (["prompt": "a", "stop_token_ids": ["x"]], "body.stop_token_ids"),
                (["prompt": "a", "logprobs": 21], "logprobs"),
                (["prompt": "a", "logprobs": 1, "echo": true], "prompt_logprobs"),
                (["prompt": ""], "prompt"),
                ([:], "prompt"),
                (["prompt": [128_256]], "prompt"),
                (["prompt": ["a", 5] as [Any]], "body.prompt"),
                (["prompt": 5], "body.prompt"),
                (["prompt": "a", "stream": "yes"], "body.stream"),
                (["prompt": "a", "stream_options": ["include_usage": true]], "stream_options"),
            ]
            for (body, param) in cases {
                let answer = try await harness.post(engine, "/v1/completions", body)
                #expect(answer.status == 400, "\(body): \(answer.text)")
                #expect(try answer.value("error", "param") as? String == param, "\(body)")
            }
            let list = try await harness.post(engine, "/v1/completions", Array("[1]".utf8))
            #expect(list.status == 400)
            let image = try await harness.post(
                engine, "/v1/chat/completions",
                ["messages": [["role": "user", "content": [["type": "image_url"]]]]])
            #expect(image.status == 400)
        }
    }

    @Test(arguments: [
        "chat_stream", "chat_stream_continuous_usage", "completion_stream",
        "completion_stream_usage",
    ])
    func streamsHaveVLLMsShape(name: String) async throws {
        // Slow enough that no two tokens share a chunk on a busy machine.
        try await withEngine({
            $0.latency.interTokenLatency = .milliseconds(250)
        }) { harness, engine in
            let (ours, capture) = try await replay(name, harness, engine)
            #expect(ours.status == 200)
            #expect(
                ours.headers[first: "content-type"] == header("content-type", capture))
            let theirs = (capture["body_text"] as? String ?? "")
                .components(separatedBy: "\n\n").filter { !$0.isEmpty }
                .map { String($0.dropFirst("data: ".count)) }
            #expect(ours.events.count == theirs.count, "\(ours.text)")
            for (our, their) in zip(ours.events, theirs) {
                guard our != "[DONE]" else {
                    #expect(their == "[DONE]")
                    continue
                }
                let differences = shapeDifferences(
                    try JSONSerialization.jsonObject(with: Data(our.utf8)),
                    try JSONSerialization.jsonObject(with: Data(their.utf8)),
                    exempt: ["usage.prompt_tokens_details"])
                #expect(differences.isEmpty, "\(our)\n\(their)")
            }
        }
    }

    @Test func idsComeFromTheClient() async throws {
        try await withEngine { harness, engine in
            let answer = try await harness.post(
                engine, "/v1/completions", ["prompt": "a", "max_tokens": 1],
                headers: ["x-request-id": "cap-req-1"])
            #expect(try answer.value("id") as? String == "cmpl-cap-req-1")
            let chat = try await harness.post(
                engine, "/v1/chat/completions",
                ["messages": [["role": "user", "content": "a"]], "max_tokens": 1])
            #expect(try (chat.value("id") as? String)?.hasPrefix("chatcmpl-") == true)
        }
    }

    @Test func smallRoutes() async throws {
        try await withEngine { harness, engine in
            for path in ["/health", "/ping"] {
                let answer = try await harness.get(engine, path)
                #expect(answer.status == 200 && answer.body.isEmpty)
            }
            #expect(try await harness.get(engine, "/version").value("version") is String)
            #expect(try await harness.get(engine, "/load").value("server_load") as? Int == 0)
            #expect(try await harness.get(engine, "/kv_event_sources").text == "{}")
            let text = try await harness.post(
                engine, "/detokenize", ["tokens": [75, 104, 111, 111, 114]])
            #expect(text.text == #"{"prompt":"Hello"}"#)
            let reset = try await harness.post(engine, "/reset_prefix_cache", [:])
            #expect(reset.status == 200)
        }
    }

    @Test func metricsAreVLLMs() async throws {
        try await withEngine { harness, engine in
            _ = try await harness.post(
                engine, "/v1/completions",
                ["prompt": String(repeating: "x", count: 70), "max_tokens": 3])
            let ours = types(of: try await harness.get(engine, "/metrics").text)
            let theirs = types(of: String(decoding: try fixture("metrics.txt"), as: UTF8.self))
            let names = ours.keys.filter { $0.hasPrefix("vllm:") }
            #expect(names.count > 25)
            for name in names {
                let our = try #require(ours[name])
                let their = try #require(theirs[name], "\(name)")
                #expect(our.kind == their.kind, "\(name)")
                #expect(our.bounds == their.bounds, "\(name)")
                // The cache's configuration names many things that only a real cache has.
                #expect(
                    name == "vllm:cache_config_info"
                        ? our.labels.isSubset(of: their.labels) : our.labels == their.labels,
                    "\(name): \(our.labels)")
            }
            let m = #"{engine="0",model_name="tiny-llama"}"#
            #expect(try await harness.metric(engine, "vllm:prompt_tokens_total" + m) == 70)
            #expect(try await harness.metric(engine, "vllm:generation_tokens_total" + m) == 3)
            #expect(try await harness.metric(engine, "vllm:num_requests_running" + m) == 0)
            #expect(
                try await harness.metric(engine, "vllm:e2e_request_latency_seconds_count" + m) == 1)
            #expect(
                try await harness.metric(engine, "vllm:inter_token_latency_seconds_count" + m) == 2)
        }
    }

    private struct Family: Equatable {
        var kind = ""
        var labels: Set<String> = []
        var bounds: Set<Double> = []
    }

    /// Type, label names and bucket bounds of every metric of a page.
    private func types(of page: String) -> [String: Family] {
        var families: [String: Family] = [:]
        var current = ""
        for line in page.split(separator: "\n") {
            let words = line.split(separator: " ")
            if line.hasPrefix("# TYPE ") {
                current = String(words[2])
                families[current] = Family(kind: String(words[3]))
            } else if !line.hasPrefix("#"), let open = line.firstIndex(of: "{"),
                let close = line.lastIndex(of: "}")
            {
                for pair in line[line.index(after: open)..<close].components(separatedBy: "\",") {
                    let parts = pair.components(separatedBy: "=\"")
                    if parts[0] == "le" {
                        families[current]?.bounds.insert(
                            Double(parts[1].replacingOccurrences(of: "\"", with: "")) ?? .infinity)
                    } else {
                        families[current]?.labels.insert(parts[0])
                    }
                }
            }
        }
        return families
    }

    @Test func aBodyBeyondTheLimitIsRefused() async throws {
        try await withEngine({
            $0.maximumBodyBytes = 10_000
        }) { harness, engine in
            let answer = try await harness.post(
                engine, "/v1/completions", [UInt8](repeating: 0x20, count: 20_000))
            #expect(answer.status == 413)
            let next = try await harness.post(
                engine, "/v1/completions", ["prompt": "a", "max_tokens": 1])
            #expect(next.status == 200)
        }
    }

    @Test func configurationMistakesAreNamed() async throws {
        func problem(_ change: (inout SimulatorConfiguration) -> Void) -> String? {
            var configuration = SimulatorConfiguration()
            change(&configuration)
            do {
                try configuration.validate()
                return nil
            } catch {
                return "\(error)"
            }
        }
        #expect(problem { _ in } == nil)
        #expect(problem { $0.blockSize = 0 } == "block size: 0 is not at least 1 token")
        #expect(
            problem { $0.blockCount = 10 }
                == "model length: 131072 tokens do not fit the KV cache of 10 blocks of 16")
        #expect(problem { $0.blockByteCount = 100 } == "block bytes: 100 is not a multiple of 64")
        #expect(problem { $0.latency.jitter = 0.5 } == "jitter: 0.5 is not in 0...0.3")
        #expect(problem { $0.transferAddress.host = "0.0.0.0" } != nil)
        #expect(problem { $0.adapters = [.init(name: "a", path: "p")] } != nil)
        #expect(problem { $0.model = "" } == "model: a model name must not be empty")
    }

    @Test func aPortInUseIsNamed() async throws {
        try await withEngine { harness, engine in
            await #expect(throws: SimulatorError.self) {
                _ = try await harness.start { $0.address = engine.address }
            }
            await #expect(throws: SimulatorError.self) {
                _ = try await harness.start { $0.transferAddress = engine.transferAddress }
            }
        }
    }
}
