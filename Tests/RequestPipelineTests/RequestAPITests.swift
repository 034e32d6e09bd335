import Core
import RequestPipeline
import Scheduling
import Synchronization
import Testing

/// Keeps what the last request looked like to plugins.
final class RequestProbe: DataProducer {
    let name = PluginName(type: "request-probe")
    let promptNeeds = PromptNeeds.media
    private struct Seen {
        var details = RequestDetails()
        var tokens: [UInt32] = []
        var text: String?
        var media: [MediaItem.Kind] = []
        var promptTokenCount = 0
        var cacheSalt: String?
        var priority = 0
    }
    private let seen = Mutex(Seen())

    var details: RequestDetails { seen.withLock(\.details) }
    var tokens: [UInt32] { seen.withLock(\.tokens) }
    var text: String? { seen.withLock(\.text) }
    var media: [MediaItem.Kind] { seen.withLock(\.media) }
    var promptTokenCount: Int { seen.withLock(\.promptTokenCount) }
    var cacheSalt: String? { seen.withLock(\.cacheSalt) }
    var priority: Int { seen.withLock(\.priority) }

    func produce(into context: inout SchedulingContext) {
        let request = context.request
        let new = Seen(
            details: request.details, tokens: request.tokens,
            text: request.promptText?.string, media: request.media.map(\.kind),
            promptTokenCount: request.promptTokenCount, cacheSalt: request.cacheSalt,
            priority: request.priority)
        seen.withLock { $0 = new }
    }
}

@Suite struct RequestAPITests {
    private func read(
        _ body: String, path: String, _ check: (RequestProbe, RequestDetails) throws -> Void
    ) throws {
        let probe = RequestProbe()
        let fixture = try Fixture(probe: probe)
        let (session, step) = fixture.step(body, path: path)
        #expect(step.decision?.model == "m", "\(step)")
        session.completed(.finished)
        try check(probe, probe.details)
    }

    @Test func readsCompletions() throws {
        let body =
            #"{"model":"m","prompt":[[1,2,3],[4]],"stream":true,"max_tokens":9,"#
            + #""cache_salt":"s"}"#
        try read(body, path: "/v1/completions") { probe, details in
            #expect(details.api == .completions)
            #expect(details.isStreaming)
            #expect(details.maximumOutputTokens == 9)
            #expect(probe.tokens == [1, 2, 3])
            #expect(probe.cacheSalt == "s")
        }
    }

    @Test(arguments: [
        (#""max_tokens":7"#, 7), (#""max_completion_tokens":8,"max_tokens":7"#, 8),
        (#""max_tokens":"many""#, nil),
    ])
    func readsChats(limit: String, expected: Int?) throws {
        let messages =
            #"[{"role":"user","content":[{"type":"text","text":"x"},"#
            + #"{"type":"image_url","image_url":{"url":"u"}},"#
            + #"{"type":"input_audio","input_audio":{"data":"AA"}},"#
            + #"{"type":"video_url","video_url":{"url":"u"}}]},"#
            + #"{"role":"user","content":"image_url"}]"#
        try read(
            #"{"model":"m","messages":\#(messages),\#(limit)}"#, path: "/v1/chat/completions"
        ) { probe, details in
            #expect(details.api == .chat)
            #expect(probe.media == [.image, .audio, .video])
            #expect(probe.text == String(messages.dropFirst().dropLast()))
            #expect(details.maximumOutputTokens == expected)
            #expect(probe.promptTokenCount == (messages.utf8.count - 2) / 4)
            #expect(!details.isStreaming)
        }
    }

    @Test func readsResponses() throws {
        let input = #"[{"role":"user","content":[{"type":"input_image","image_url":"u"}]}]"#
        try read(
            #"{"model":"m","instructions":"abc","input":\#(input),"max_output_tokens":5}"#,
            path: "/v1/responses"
        ) { probe, details in
            #expect(details.api == .responses)
            #expect(probe.media == [.image])
            #expect(probe.text == "abc" + input.dropFirst().dropLast())
            #expect(details.maximumOutputTokens == 5)
            #expect(probe.promptTokenCount == (input.utf8.count - 2 + 3) / 4)
        }
        try read(#"{"model":"m","input":"0123456789"}"#, path: "/v1/responses") { probe, _ in
            #expect(probe.promptTokenCount == 2)
        }
    }

    @Test func readsMessages() throws {
        let messages =
            #"[{"role":"user","content":[{"type":"image","source":{"data":"AA"}},"#
            + #"{"type":"tool_result","content":[{"type":"image","source":{"url":"u"}}]}]}]"#
        try read(
            #"{"model":"m","messages":\#(messages),"system":"abcd","tools":["t"],"max_tokens":5,"#
                + #""stream":true}"#,
            path: "/v1/messages"
        ) { probe, details in
            #expect(details.api == .messages)
            #expect(probe.media == [.image, .image])
            #expect(details.maximumOutputTokens == 5)
            #expect(details.isStreaming)
            // What conversations have in common comes first, wherever it stands in the body.
            #expect(probe.text == #""t"abcd"# + messages.dropFirst().dropLast())
            #expect(probe.promptTokenCount == (messages.utf8.count - 2 + 7) / 4)
        }
    }

    @Test func readsEmbeddings() throws {
        try read(#"{"model":"m","input":[5,6]}"#, path: "/v1/embeddings") { probe, details in
            #expect(details.api == .embeddings)
            #expect(probe.tokens == [5, 6])
        }
        try read(#"{"model":"m","input":["01234567"]}"#, path: "/v1/embeddings") { probe, _ in
            #expect(probe.promptTokenCount == 2)
        }
        try read(#"{"model":"m","messages":["01234567"]}"#, path: "/v1/embeddings") { probe, _ in
            #expect(probe.promptTokenCount == 2)
        }
    }

    @Test func readsTokenIDsOfGenerate() throws {
        let body =
            #"{"model":"m","token_ids":[7,8,9],"sampling_params":{"max_tokens":3},"#
            + #""cache_salt":"s","stream":true,"features":{"mm_hashes":{"image":["a","b"]}}}"#
        try read(body, path: "/inference/v1/generate") { probe, details in
            #expect(details.api == .generate)
            #expect(probe.tokens == [7, 8, 9])
            #expect(probe.cacheSalt == "s")
            #expect(details.maximumOutputTokens == 3)
            #expect(probe.media == [.image, .image])
        }
    }

    @Test(arguments: [
        "/v1/messages/count_tokens", "/v1/chat/completions/render", "/v1/images/generations",
    ])
    func readsTheModelOfOthers(path: String) throws {
        try read(#"{"model":"m","anything":[{}]}"#, path: path) { _, details in
            #expect(details.api == .named)
        }
    }

    @Test func pathsMayHaveAPrefix() throws {
        try read(#"{"model":"m","prompt":[1]}"#, path: "/pool-a/v1/completions") { probe, _ in
            #expect(probe.tokens == [1])
        }
    }

    @Test(arguments: [
        ("/v1/completions", #"{"model":"m","prompt":[-1]}"#, "prompt"),
        ("/v1/embeddings", #"{"model":"m","input":[1.5]}"#, "input"),
        ("/inference/v1/generate", #"{"model":"m","token_ids":[true]}"#, "token_ids"),
        ("/v1/responses", #"{"input":"x"}"#, "model"),
        ("/v1/responses", #"{"model":null,"input":"x"}"#, "model"),
        ("/v1/embeddings", #"{"model":["m"],"input":"x"}"#, "model"),
    ])
    func saysWhichFieldIsWrong(path: String, body: String, param: String) throws {
        let error = try #require(try Fixture().step(body, path: path).1.error)
        #expect(error.status == 400)
        #expect(error.param == param)
    }

    @Test func errorsHaveTheShapeOfTheAPI() throws {
        let error = try #require(try Fixture().step("{", path: "/v1/messages").1.error)
        #expect(
            error.body
                == #"{"type":"error","error":{"type":"invalid_request_error","message":"#
                + #""JSON decode error: the text ends too early at byte 1."}}"#)
        let other = try #require(try Fixture().step("{", path: "/v1/responses").1.error)
        #expect(other.body.hasPrefix(#"{"error":{"message":"#))
    }

    // MARK: - Tokens

    /// Engines show the tokens of chats, and messages and responses are chats.
    @Test(arguments: [
        (
            "/v1/messages", #"{"model":"m","messages":[{"role":"user","content":"a\n"}]}"#,
            #"[{"role":"user","content":"a\n"}]"#
        ),
        (
            "/v1/messages",
            #"{"model":"m","system":[{"type":"text","text":"s"}],"tools":[],"messages":["#
                + #"{"role":"user","content":[{"type":"text","text":"a","cache_control":{}}]},"#
                + #"{"role":"assistant","content":"b"},{"role":"user","content":"c"}]}"#,
            #"[{"role":"system","content":"s"},{"role":"user","content":"a"},"#
                + #"{"role":"assistant","content":"b"},{"role":"user","content":"c"}]"#
        ),
        (
            "/v1/responses", #"{"model":"m","input":"a","instructions":"s","tools":null}"#,
            #"[{"role":"system","content":"s"},{"role":"user","content":"a"}]"#
        ),
        (
            "/v1/responses",
            #"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"a"}]}]}"#,
            #"[{"role":"user","content":"a"}]"#
        ),
    ])
    func asksForTheTokensOfTheChat(path: String, body: String, messages: String) throws {
        let fixture = try Fixture()
        let (session, step) = fixture.step(body, path: path)
        let question = try #require(step.question)
        #expect(question.path == "/v1/chat/completions/render")
        #expect(
            String(decoding: question.body, as: UTF8.self)
                == #"{"model":"m","messages":\#(messages)}"#)
        #expect(session.body == Array(body.utf8))
        #expect(session.tokenized(.success(Array(0..<64))).decision?.prefill != nil)
        session.completed(.finished)
    }

    @Test(arguments: [
        ("/v1/messages", #""messages":[{"role":"user","content":[{"type":"image"}]}]"#),
        ("/v1/messages", #""messages":[{"role":"user","content":"a"}],"tools":[{}]"#),
        ("/v1/messages", #""messages":[{"role":"user","content":"a"}],"system":[{}]"#),
        (
            "/v1/messages",
            #""messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text"}]}]"#
        ),
        ("/v1/messages", #""messages":[]"#), ("/v1/messages", #""messages":[{"content":"a"}]"#),
        ("/v1/responses", #""input":"a","previous_response_id":"r""#),
        ("/v1/responses", #""input":[{"type":"reasoning"}]"#), ("/v1/embeddings", #""input":"a""#),
    ])
    func whatIsNoPlainChatGoesWithoutTokens(path: String, fields: String) throws {
        let (session, step) = try Fixture().step(#"{"model":"m",\#(fields)}"#, path: path)
        #expect(step.decision != nil)
        session.completed(.finished)
    }

    // MARK: - Parsers

    /// The second form is the deprecated one.
    @Test(arguments: ["requestHandler: {parsers: [{pluginRef: a}]}", "parser: {pluginRef: a}"])
    func onlyConfiguredParsersTakeRequests(section: String) throws {
        let text = """
            apiVersion: llm-d.ai/v1alpha1
            kind: EndpointPickerConfig
            plugins: [{type: random-picker}, {type: anthropic-parser, name: a}]
            \(section)
            """
        let fixture = try Fixture(configuration: text)
        let (session, step) = fixture.step(
            #"{"model":"m","messages":[]}"#, path: "/v1/messages")
        #expect(step.decision != nil)
        session.completed(.finished)
        let refused = fixture.session("POST", "/v1/completions").begin(endOfBody: false)
        #expect(refused.error?.status == 400)
        let get = fixture.session("GET", "/v1/models")
        #expect(get.begin(endOfBody: true).decision != nil)
        get.completed(.finished)
    }

    // MARK: - Usage

    @Test(arguments: [
        (
            "/v1/responses",
            [
                #"{"id":"r","usage":{"input_tokens":13,"input_tokens_details":{"cached_tokens":8,"#
                    + #""input_tokens_per_turn":[]},"output_tokens":5,"total_tokens":18},"#
                    + #""user":null}"#
            ], [13, 5, 8]
        ),
        (
            "/v1/responses",
            [
                "event: response.created\ndata: {\"response\":{\"usage\":null}}\n\n",
                "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":3,",
                "\"output_tokens\":2}}}\n\n",
            ], [3, 2, 0]
        ),
        (
            "/v1/messages",
            [
                #"{"id":"c","type":"message","usage":{"input_tokens":13,"output_tokens":5,"#
                    + #""cache_read_input_tokens":4}}"#
            ], [13, 5, 4]
        ),
        (
            "/v1/messages",
            [
                "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":25,",
                "\"cache_read_input_tokens\":16,\"output_tokens\":1}}}\n\n",
                "event: content_block_delta\ndata: {}\n\n" + String(repeating: "x", count: 20_000),
                "event: message_delta\ndata: {\"usage\":{\"output_tokens\":15}}\n\n",
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            ], [25, 15, 16]
        ),
        ("/v1/embeddings", [#"{"data":[],"usage":{"prompt_tokens":4}}"#], [4, 0, 0]),
    ])
    func findsTheUsage(path: String, pieces: [String], expected: [Double]) throws {
        let fixture = try Fixture(policy: .load)
        let (session, _) = fixture.step(
            #"{"model":"m","input":"x","messages":[],"stream":\#(pieces.count > 1)}"#, path: path)
        session.responseStarted(status: 200)
        for piece in pieces { session.respond(piece) }
        session.completed(.finished)
        let sums = ["input", "output", "cached"].map {
            fixture.metric("llm_d_epp_request_\($0)_tokens_sum")
        }
        #expect(sums == expected)
    }

    // MARK: - Fuzz

    /// Bodies that are nearly right lead to a step, never to a crash, and leave nothing in flight.
    @Test(arguments: [UInt64](1...40))
    func mutatedBodiesAreAnsweredOrRouted(seed: UInt64) throws {
        let bodies = [
            ("/v1/completions", #"{"model":"m","prompt":[[1,2],"x"],"max_tokens":3}"#),
            (
                "/v1/chat/completions",
                #"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#
            ),
            ("/v1/responses", #"{"model":"m","input":[{"content":[{"type":"input_image"}]}]}"#),
            (
                "/v1/messages",
                #"{"model":"m","system":[],"messages":[{"content":[{"type":"tool_result"}]}]}"#
            ),
            (
                "/inference/v1/generate",
                #"{"model":"m","token_ids":[1,2],"features":{"mm_hashes":{"image":["a"]}}}"#
            ),
            ("/v1/embeddings", #"{"model":"m","input":["x"]}"#),
        ]
        var random = SeededGenerator(state: seed)
        let fixture = try Fixture(policy: .load)
        let pieces = ["[", "]", "{", "}", "\"", ",", ":", "null", "1e9", "-1", "\\u0000", "é"]
        for _ in 0..<100 {
            let (path, body) = bodies.randomElement(using: &random)!
            var bytes = Array(body.utf8)
            for _ in 0..<Int.random(in: 1...3, using: &random) {
                let at = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes.remove(at: at)
                case 1: bytes[at] = UInt8.random(in: 0...255, using: &random)
                default:
                    bytes.insert(contentsOf: pieces.randomElement(using: &random)!.utf8, at: at)
                }
            }
            let session = fixture.session("POST", path)
            _ = session.begin(endOfBody: false)
            var step = bytes.withUnsafeBytes { session.received($0) }
            if case .more = step { step = session.receivedEnd() }
            if let error = step.error {
                #expect((400..<500).contains(error.status), "seed \(seed)")
            } else {
                #expect(step.decision != nil, "seed \(seed)")
                session.completed(.finished)
            }
        }
        #expect(fixture.inFlight == [0, 0, 0, 0], "seed \(seed)")
    }
}
