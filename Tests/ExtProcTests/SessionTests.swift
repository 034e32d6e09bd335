import Core
import ExtProc
import ModelServers
import RequestPipeline
import Testing

@Suite struct SessionTests {
    @Test func nothingIsAnsweredBeforeTheRequestIsComplete() throws {
        let fixture = try Fixture()
        let conversation = Conversation(fixture)
        let body = #"{"model":"m","prompt":[1,2,3]}"#
        #expect(try conversation.send(Request.requestHeaders(completion)).isEmpty)
        for byte in body.utf8.dropLast() {
            #expect(try conversation.send(Request.requestBody([byte])).isEmpty)
        }
        #expect(fixture.inFlightCount == 0)
        let responses = try conversation.send(Request.requestBody(body.utf8.suffix(1), end: true))
        #expect(
            responses == [
                .headers(
                    .request,
                    set: [
                        ["x-gateway-destination-endpoint", "10.0.0.1:8000"],
                        ["content-length", "\(body.utf8.count)"],
                    ], remove: [], destination: "10.0.0.1:8000"),
                .body(.request, Array(body.utf8), endOfStream: true),
            ])
        #expect(fixture.inFlightCount == 1)
    }

    @Test(arguments: [61_999, 62_000, 62_001, 500_000])
    func longBodiesComeBackInChunks(count: Int) throws {
        let conversation = Conversation(try Fixture())
        let head = #"{"model":"m","prompt":""#
        let body = head + String(repeating: "x", count: count - head.utf8.count - 2) + #""}"#
        try conversation.send(Request.requestHeaders(completion))
        let bytes = Array(body.utf8)
        try conversation.send(Request.requestBody(bytes[..<1000]))
        let responses = try conversation.send(Request.requestBody(bytes[1000...], end: true))
        #expect(responses.first?.set["content-length"] == "\(count)")
        var received: [UInt8] = []
        for (index, response) in responses.dropFirst().enumerated() {
            guard case .body(.request, let chunk, let end) = response else {
                Issue.record("a body chunk was expected")
                return
            }
            #expect(chunk.count <= 62_000)
            #expect(end == (index == responses.count - 2))
            received += chunk
        }
        #expect(received == bytes)
    }

    @Test func anEmptyBodyIsOneChunk() throws {
        let conversation = Conversation(try Fixture())
        var head = completion
        head[1].1 = "/v1/audio/speech"
        try conversation.send(Request.requestHeaders(head))
        let responses = try conversation.send(Request.requestBody([], end: true))
        #expect(responses.count == 2)
        #expect(responses.last == .body(.request, [], endOfStream: true))
    }

    @Test func aRequestWithoutBodyGetsHeadersAlone() throws {
        let fixture = try Fixture()
        let conversation = Conversation(fixture)
        let responses = try conversation.send(
            Request.requestHeaders([(":method", "GET"), (":path", "/v1/models")], end: true))
        #expect(responses.count == 1)
        #expect(responses[0].set["x-gateway-destination-endpoint"] == "10.0.0.1:8000")
        #expect(responses[0].set["content-length"] == nil)
    }

    @Test func trailersFollowTheBody() throws {
        let conversation = Conversation(try Fixture())
        let body = Array(#"{"model":"m","prompt":[1]}"#.utf8)
        try conversation.send(Request.requestHeaders(completion))
        #expect(try conversation.send(Request.requestBody(body)).isEmpty)
        let responses = try conversation.send(Request.requestTrailers)
        #expect(
            responses.dropFirst() == [
                .body(.request, body, endOfStream: false), .trailers(.request),
            ])
    }

    @Test func headersOfTheRouterAreItsOwn() throws {
        let conversation = Conversation(try Fixture())
        let sent = [
            (":method", "POST"), (":path", "/v1/completions"),
            ("x-llm-d-inference-objective", "gold"), ("x-gateway-destination-endpoint", "evil:1"),
            ("x-prefiller-host-port", "evil:1"), ("x-other", "stays"),
        ]
        try conversation.send(Request.requestHeaders(sent))
        let body = #"{"model":"m","prompt":[1]}"#
        let responses = try conversation.send(Request.requestBody(body.utf8, end: true))
        #expect(
            responses[0].removed.sorted() == [
                "tracestate", "x-llm-d-inference-objective", "x-prefiller-host-port",
            ])
        #expect(responses[0].set["x-gateway-destination-endpoint"] == "10.0.0.1:8000")
        #expect(responses[0].set["x-request-id"]?.utf8.count == 36)
        #expect(responses[0].set["traceparent"]?.utf8.count == 55)
    }

    @Test func headersOfPluginsReachTheEndpoint() throws {
        let fixture = try Fixture(plugins: "{type: first-picker}, {type: prefiller}")
        let conversation = Conversation(fixture)
        var head = completion
        head.append(("x-prefiller-host-port", "evil:1"))
        try conversation.send(Request.requestHeaders(head))
        let body = #"{"model":"m","prompt":[1]}"#
        let responses = try conversation.send(Request.requestBody(body.utf8, end: true))
        #expect(responses[0].set["x-prefiller-host-port"] == "10.0.0.9:8000")
        #expect(responses[0].removed.isEmpty)
    }

    @Test func fallbacksFollowTheDestination() throws {
        let conversation = Conversation(try Fixture(plugins: "{type: two-picker}"))
        let responses = try conversation.post()
        guard case .headers(_, _, _, let destination) = responses[0] else {
            Issue.record("headers were expected")
            return
        }
        #expect(destination == "10.0.0.1:8000,10.0.0.2:8000")
        #expect(responses[0].set["x-gateway-destination-endpoint"] == destination)
    }

    @Test(arguments: [
        (["10.0.0.2:8000"], "10.0.0.2:8000"),
        (["10.0.0.9:8000", "10.0.0.3:8000", "nonsense"], "10.0.0.3:8000"),
    ])
    func theSubsetIsObeyed(subset: [String], destination: String) throws {
        let fixture = try Fixture()
        let message = Request.requestHeaders(
            [(":method", "GET"), (":path", "/v1/models")], end: true,
            metadata: Request.subset(subset))
        let obeyed = try Conversation(fixture).send(message)
        #expect(obeyed[0].set["x-gateway-destination-endpoint"] == destination)
        let ignored = try Conversation(fixture, ignoresSubset: true).send(message)
        #expect(ignored[0].set["x-gateway-destination-endpoint"] == "10.0.0.1:8000")
    }

    @Test(arguments: [[], ["10.0.0.1:9000"], ["10.0.0.9:8000"]])
    func aSubsetWithoutEndpointsIsRefused(subset: [String]) throws {
        let conversation = Conversation(try Fixture())
        let responses = try conversation.send(
            Request.requestHeaders(
                [(":method", "GET"), (":path", "/v1/models")], end: true,
                metadata: Request.subset(subset)))
        guard case .immediate(503, let headers, _) = responses.first else {
            Issue.record("503 was expected")
            return
        }
        #expect(headers.contains(["x-llm-d-request-dropped-reason", "rejected-no-endpoints"]))
        #expect(conversation.status == 0)
    }

    @Test(arguments: [
        (#"{"model":"m","#, 400), ("", 400), (#"[1]"#, 400), (#"{"prompt":"p"}"#, 400),
        (#"{"model":"other","prompt":"p"}"#, 404),
        (#"{"model":"m","prompt":""# + String(repeating: "x", count: 1000) + #""}"#, 413),
    ])
    func errorsAreTheRoutersOwnResponses(body: String, status: Int) throws {
        let fixture = try Fixture {
            $0.models = ["m"]
            $0.maximumBodyBytes = 1000
        }
        let conversation = Conversation(fixture)
        let responses = try conversation.post(body)
        guard case .immediate(status, let headers, let json) = responses.first else {
            Issue.record("\(status) was expected, not \(responses)")
            return
        }
        #expect(responses.count == 1)
        #expect(headers.contains(["content-type", "application/json"]))
        #expect(headers.contains(["x-request-id", "id-1"]))
        #expect(json.hasPrefix(#"{"error":{"message":"#) && json.hasSuffix("\"code\":\(status)}}"))
        #expect(conversation.status == 0)
        #expect(fixture.inFlightCount == 0)
    }

    @Test func aLengthBeyondTheLimitIsRefusedWithTheHeaders() throws {
        let conversation = Conversation(try Fixture { $0.maximumBodyBytes = 1000 })
        let responses = try conversation.send(
            Request.requestHeaders(completion + [("content-length", "1001")]))
        guard case .immediate(413, _, _) = responses.first else {
            Issue.record("413 was expected")
            return
        }
        // What was on its way is ignored.
        #expect(try conversation.send(Request.requestBody([1, 2, 3], end: true)).isEmpty)
    }

    @Test func anEmptyPoolIs503() throws {
        let conversation = Conversation(try Fixture(engines: 0))
        guard case .immediate(503, let headers, _) = try conversation.post().first else {
            Issue.record("503 was expected")
            return
        }
        #expect(headers.contains(["x-llm-d-request-dropped-reason", "rejected-no-endpoints"]))
    }

    @Test func responsesAreAnsweredAsTheyCome() throws {
        let fixture = try Fixture()
        let conversation = Conversation(fixture)
        try conversation.post()
        #expect(
            try conversation.send(Request.responseHeaders([(":status", "200")])) == [
                .headers(
                    .response, set: [["x-went-into-resp-headers", "true"]], remove: [],
                    destination: nil)
            ])
        for text in ["data: 1\n\n", "", "data: 2\n\n"] {
            #expect(
                try conversation.send(Request.responseBody(text)) == [
                    .body(.response, Array(text.utf8), endOfStream: false)
                ])
        }
        #expect(fixture.inFlightCount == 1)
        #expect(
            try conversation.send(Request.responseBody("", end: true)) == [
                .body(.response, [], endOfStream: true)
            ])
        #expect(fixture.inFlightCount == 0)
        #expect(conversation.session.isComplete)
    }

    @Test func theModelIsRewrittenThereAndBack() throws {
        let fixture = try Fixture()
        let target = ModelRewrite.Target(model: "target-7b")
        let rule = ModelRewrite.Rule(models: ["alias"], targets: [target])
        fixture.pool.setRules(
            TrafficRules(rewrites: [ModelRewrite(name: "r", createdAt: 0, rules: [rule])]))
        for (pieces, expected, hasTrailers) in [
            ([#"{"model":"targ"#, #"et-7b","x":1}"#], #"{"model":"alias","x":1}"#, false),
            (["data: {\"model\": \"target-7b\"}\n\n"], "data: {\"model\": \"alias\"}\n\n", false),
            ([#"{"model":"target-"#], #"{"model":"target-"#, false),
            ([#"{"model":"target-"#], #"{"model":"target-"#, true),
        ] {
            let conversation = Conversation(fixture)
            let responses = try conversation.post(#"{"model":"alias","prompt":[1,2]}"#)
            let body = Array(#"{"model":"target-7b","prompt":[1,2]}"#.utf8)
            #expect(responses[0].set["content-length"] == "\(body.count)")
            #expect(responses.dropFirst() == [.body(.request, body, endOfStream: true)])
            let head = try conversation.send(
                Request.responseHeaders([
                    (":status", "200"), ("content-length", "7"),
                    ("x-gateway-destination-endpoint", "10.0.0.1:1"),
                ]))
            #expect(head[0].removed == ["content-length", "x-gateway-destination-endpoint"])
            var out: [Response] = []
            for piece in pieces { out += try conversation.send(Request.responseBody(piece)) }
            #expect(out.count == pieces.count)
            out += try conversation.send(
                hasTrailers ? Request.responseTrailers : Request.responseBody("", end: true))
            var received: [UInt8] = []
            for case .body(.response, let bytes, _) in out { received += bytes }
            #expect(String(decoding: received, as: UTF8.self) == expected)
            #expect(conversation.session.isComplete)
        }
    }

    @Test func theListOfModelsIsTheRoutersOwn() throws {
        let fixture = try Fixture()
        for member in fixture.pool.snapshot.members { fixture.pool.setModels(["m"], of: member) }
        let conversation = Conversation(fixture)
        let responses = try conversation.send(
            Request.requestHeaders([(":method", "GET"), (":path", "/v1/models")], end: true))
        guard case .immediate(200, let headers, let body) = responses.first else {
            Issue.record("the list was expected, not \(responses)")
            return
        }
        #expect(headers.contains(["content-type", "application/json"]))
        #expect(body.hasPrefix(#"{"object":"list","data":[{"id":"m","object":"model","#))
        #expect(conversation.status == 0)
        #expect(fixture.inFlightCount == 0)
    }

    @Test func errorsOfMessagesAreAnthropics() throws {
        let conversation = Conversation(try Fixture())
        var head = completion
        head[1].1 = "/v1/messages?beta=true"
        try conversation.send(Request.requestHeaders(head))
        let responses = try conversation.send(Request.requestBody("{".utf8, end: true))
        guard case .immediate(400, _, let body) = responses.first else {
            Issue.record("400 was expected, not \(responses)")
            return
        }
        #expect(body.hasPrefix(#"{"type":"error","error":{"type":"invalid_request_error","#))
    }

    @Test func aRequestIsInFlightWhereItWasServed() throws {
        let fixture = try Fixture(plugins: "{type: two-picker}")
        let conversation = Conversation(fixture)
        try conversation.post()
        #expect(fixture.inFlight == [1, 0, 0])
        try conversation.send(
            Request.responseHeaders(
                [(":status", "200")], metadata: Request.served(by: "10.0.0.2:8000")))
        #expect(fixture.inFlight == [0, 1, 0])
        try conversation.send(Request.responseBody("", end: true))
        #expect(fixture.inFlight == [0, 0, 0])
    }

    @Test func responsesMayEndWithHeadersOrTrailers() throws {
        let fixture = try Fixture()
        let short = Conversation(fixture)
        try short.post()
        try short.send(Request.responseHeaders([(":status", "204")], end: true))
        #expect(short.session.isComplete)
        let long = Conversation(fixture)
        try long.post()
        try long.send(Request.responseHeaders([("status", "200")]))
        try long.send(Request.responseBody("x"))
        #expect(try long.send(Request.responseTrailers) == [.trailers(.response)])
        #expect(long.session.isComplete)
        #expect(fixture.inFlightCount == 0)
    }

    /// However far a stream got: its end releases what it held, once.
    @Test(arguments: 0...6)
    func theEndOfTheStreamReleasesTheEndpoint(messageCount: Int) throws {
        let fixture = try Fixture()
        let other = Conversation(fixture)
        try other.post()
        let conversation = Conversation(fixture)
        let messages = [
            Request.requestHeaders(completion),
            Request.requestBody(#"{"model":"m","#.utf8),
            Request.requestBody(#""prompt":[1]}"#.utf8, end: true),
            Request.responseHeaders([(":status", "200")]),
            Request.responseBody("x"),
            Request.responseBody("y", end: true),
        ]
        for message in messages.prefix(messageCount) { try conversation.send(message) }
        conversation.session.closed()
        conversation.session.closed()
        #expect(fixture.inFlightCount == 1)
    }

    @Test func tokensAreAskedForFirst() throws {
        let fixture = try Fixture(plugins: "{type: first-picker}, {type: token-reader}")
        let conversation = Conversation(fixture)
        #expect(try conversation.post(#"{"model":"m","prompt":"text"}"#).isEmpty)
        let question = try #require(conversation.question)
        #expect(question.path == "/v1/completions/render")
        #expect(String(decoding: question.body, as: UTF8.self).contains("text"))
        let responses = try conversation.tokenized(.success([1, 2, 3]))
        #expect(responses.count == 2)
        #expect(fixture.inFlightCount == 1)
        #expect(try conversation.tokenized(.success([1])).isEmpty)
    }

    @Test func tokensThatComeTooLateAreIgnored() throws {
        let fixture = try Fixture(plugins: "{type: first-picker}, {type: token-reader}")
        let conversation = Conversation(fixture)
        try conversation.post(#"{"model":"m","prompt":"text"}"#)
        conversation.session.closed()
        #expect(try conversation.tokenized(.success([1])).isEmpty)
        #expect(fixture.inFlightCount == 0)
    }

    @Test func aResponseOfTheDataPlaneItselfIsLetThrough() throws {
        let fixture = try Fixture()
        let conversation = Conversation(fixture)
        try conversation.send(Request.requestHeaders(completion))
        let headers = try conversation.send(Request.responseHeaders([(":status", "408")]))
        #expect(headers.count == 1)
        #expect(try conversation.send(Request.requestBody("late".utf8)).isEmpty)
        #expect(conversation.status == nil)
        let body = try conversation.send(Request.responseBody("timeout", end: true))
        #expect(body == [.body(.response, Array("timeout".utf8), endOfStream: true)])
        #expect(conversation.session.isComplete)
    }

    @Test(arguments: [
        [Request.requestBody([1])],
        [Request.responseHeaders([(":status", "200")])],
        [Request.requestHeaders(completion), Request.requestHeaders(completion)],
        [Request.requestHeaders(completion), Request.responseBody("x")],
        [[0xFF]],
    ])
    func messagesOutOfOrderEndTheCall(messages: [[UInt8]]) throws {
        let conversation = Conversation(try Fixture())
        for message in messages { try conversation.send(message) }
        #expect(conversation.status == 3)
    }
}
