import Core
import ModelServers
import RequestPipeline
import Telemetry
import Testing

@Suite struct RequestSessionTests {
    /// A prompt may go to an endpoint whose circuit is half open; another may when it is computed.
    @Test func aProbeEndsWithThePrompt() throws {
        let fixture = try Fixture(
            [server("p0", 1, role: .prefill), server("d0", 2, role: .decode)], policy: .load)
        let start = MonotonicTime.now
        for member in fixture.pool.snapshot.members {
            member.scraped(.load(ServerLoad()), at: start)
        }
        let prefill = try #require(
            fixture.pool.snapshot.members.first { $0.endpoint.server.name == "p0" })
        for _ in 0..<5 { prefill.requestAnswered(isFailure: true, at: start) }
        #expect(!prefill.isHealthy)
        prefill.scraped(.load(ServerLoad()), at: start + .seconds(2))
        #expect(prefill.isHealthy)
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1,2,3]}"#)
        guard case .route(let decision) = step else { return #expect(Bool(false), "\(step)") }
        #expect(decision.prefill?.server.name == "p0")
        #expect(!prefill.isHealthy)
        session.responseStarted(status: 200)
        #expect(prefill.isHealthy)
        session.completed(.finished)
    }

    @Test func routesTokenIDsThroughPrefillAndDecode() throws {
        let fixture = try Fixture()
        let body = #"{"model":"m","prompt":\#(prompt(40)),"max_tokens":3}"#
        let (session, step) = fixture.step(body)
        let decision = try #require(step.decision)
        let prefill = try #require(decision.prefill)
        #expect(decision.endpoint.server.name.hasPrefix("d"))
        #expect(prefill.server.name.hasPrefix("p"))
        #expect(decision.model == "m")
        let other = prefill.address == "10.0.0.1:8000" ? "10.0.0.2:8000" : "10.0.0.1:8000"
        #expect(
            decision.headers == [
                .set(name: "x-prefiller-host-port", value: "\(prefill.address),\(other)"),
                .remove(name: "x-encoder-hosts-ports"),
                .set(name: "x-request-id", value: session.requestID),
            ])
        #expect(String(decoding: session.body, as: UTF8.self) == body)
        #expect(fixture.inFlight.reduce(0, +) == 2)
        let prefillMember = fixture.pool.snapshot.member(at: prefill.server.address)
        #expect(prefillMember?.prefillTokensInFlight == 40)
        #expect(fixture.prefillTokensInFlight == 40)
        session.responseStarted(status: 200)
        #expect(fixture.prefillTokensInFlight == 0)
        #expect(fixture.pool.snapshot.member(at: prefill.server.address)?.inFlightCount == 0)
        #expect(fixture.inFlight.reduce(0, +) == 1)
        session.completed(.finished)
        #expect(fixture.inFlight == [0, 0, 0, 0])
    }

    @Test func aShortPromptIsDecodedAlone() throws {
        let fixture = try Fixture()
        let (session, step) = fixture.step(#"{"model":"m","prompt":\#(prompt(15))}"#)
        let decision = try #require(step.decision)
        #expect(decision.prefill == nil)
        #expect(decision.headers.contains(.remove(name: "x-prefiller-host-port")))
        #expect(fixture.prefillTokensInFlight == 15)
        session.completed(.finished)
        #expect(fixture.prefillTokensInFlight == 0)
    }

    @Test func anEqualPromptGoesToTheSameEndpoints() throws {
        let fixture = try Fixture()
        let body = #"{"model":"m","prompt":\#(prompt(64))}"#
        let (first, step) = fixture.step(body)
        let decision = try #require(step.decision)
        for _ in 0..<10 {
            let (session, step) = fixture.step(body)
            // All of it is cached at the decode endpoint: no prefill.
            #expect(step.decision?.endpoint === decision.endpoint)
            #expect(step.decision?.prefill == nil)
            session.completed(.finished)
        }
        first.completed(.finished)
    }

    /// The same bytes in any pieces lead to the same decision.
    @Test(arguments: [UInt64](1...20))
    func piecesDoNotMatter(seed: UInt64) throws {
        let body = #"{"prompt":\#(prompt(200)),"stream":true,"model":"m\u00e4"}"#
        let (whole, step) = try Fixture().step(body)
        let expected = try #require(step.decision)

        let session = try Fixture().session()
        _ = session.begin(endOfBody: false)
        var random = SeededGenerator(state: seed)
        var rest = body.utf8[...]
        while !rest.isEmpty {
            let piece = rest.prefix(Int.random(in: 0...40, using: &random))
            let step = Array(piece).withUnsafeBytes { session.received($0) }
            guard case .more = step else {
                Issue.record("seed \(seed): \(step)")
                return
            }
            rest = rest.dropFirst(piece.count)
        }
        let decision = try #require(session.receivedEnd().decision, "seed \(seed)")
        #expect(decision.endpoint.address == expected.endpoint.address, "seed \(seed)")
        #expect(decision.prefill?.address == expected.prefill?.address, "seed \(seed)")
        #expect(decision.model == "mä")
        #expect(session.body == whole.body)
    }

    // MARK: - Tokens

    @Test(arguments: [
        ("/v1/completions", #"{"model":"m","prompt":"Hello"}"#, "/v1/completions/render"),
        ("/v1/completions", #"{"model":"m","prompt":["Hello"]}"#, "/v1/completions/render"),
        ("/v1/chat/completions", #"{"model":"m","messages":[{}]}"#, "/v1/chat/completions/render"),
    ])
    func asksForTheTokensOfText(path: String, body: String, render: String) throws {
        let fixture = try Fixture()
        let (session, step) = fixture.step(body, path: path)
        let question = try #require(step.question)
        #expect(question.path == render)
        #expect(question.engines.count == 3)
        #expect(question.body == Array(body.utf8))
        let answer = session.tokenized(.success(Array(0..<64)))
        #expect(answer.decision?.prefill != nil)
        session.completed(.finished)
    }

    @Test func routesWithoutTokensIfNoEngineTellsThem() throws {
        let fixture = try Fixture()
        let (session, step) = fixture.step(#"{"model":"m","prompt":"Hello"}"#)
        #expect(step.question != nil)
        #expect(session.tokenized(.failure(.badGateway("down"))).decision != nil)
        #expect(fixture.metric("llmd_router_tokenize_failures_total") == 1)
        session.completed(.finished)
    }

    @Test func aClientThatLeavesWhileTokensAreAskedForIsCounted() throws {
        let fixture = try Fixture()
        let (session, step) = fixture.step(#"{"model":"m","prompt":"Hello"}"#)
        #expect(step.question != nil)
        session.completed(.clientGone)
        #expect(fixture.metric("llm_d_epp_request_error_total", "499") == 1)
        guard case .more = session.tokenized(.success([1])) else {
            Issue.record("a request was sent whose client is gone")
            return
        }
    }

    @Test func asksForNothingWithoutAPreciseProducer() throws {
        let (session, step) = try Fixture(policy: .load).step(#"{"model":"m","prompt":"Hello"}"#)
        #expect(step.decision != nil)
        session.completed(.finished)
    }

    @Test(arguments: [
        (200, #"{"token_ids":[1,2,3]}"#, [1, 2, 3]),
        (200, #"[{"token_ids":[4]},{"token_ids":[5]}]"#, [4]),
        (200, "[]", nil), (200, "{}", nil), (200, "no", nil), (200, #"{"token_ids":["x"]}"#, nil),
        (403, #"{"token_ids":[1]}"#, nil),
    ])
    func readsRenderAnswers(status: Int, body: String, expected: [UInt32]?) {
        let result = TokenizeRequest.tokens(status: status, body: Array(body.utf8))
        #expect((try? result.get()) == expected)
    }

    // MARK: - Errors

    @Test(arguments: [
        (#"{"model": "m", "prompt": }"#, 400, "body.25"),
        (#"{"model": "m""#, 400, "body.13"),
        ("", 400, "body.0"),
        ("[]", 400, nil),
        (#"{"prompt":"x"}"#, 400, "model"),
        (#"{"model":7,"prompt":"x"}"#, 400, "model"),
        (#"{"model":"m","prompt":[1,-2]}"#, 400, "prompt"),
    ])
    func refusesBodies(body: String, status: Int, param: String?) throws {
        let fixture = try Fixture()
        let error = try #require(fixture.step(body).1.error)
        #expect(error.status == status)
        #expect(error.param == param)
        #expect(fixture.inFlight == [0, 0, 0, 0])
    }

    @Test func refusesAnUnknownModelInTheEnginesWords() throws {
        let fixture = try Fixture { $0.models = ["a", "b"] }
        let error = try #require(fixture.step(#"{"model":"nope","prompt":[1]}"#).1.error)
        #expect(error.status == 404)
        #expect(error.type == "NotFoundError")
        #expect(error.message == "The model `nope` does not exist. Valid aliases: a, b.")
        #expect(error.param == "model")
    }

    @Test func theEnginesListsCountOnceAllAreKnown() throws {
        let fixture = try Fixture(policy: .load)
        let members = fixture.pool.snapshot.members
        for member in members.dropLast() { fixture.pool.setModels(["m"], of: member) }
        let (session, step) = fixture.step(#"{"model":"x","prompt":[1]}"#)
        #expect(step.decision != nil)
        session.completed(.finished)
        fixture.pool.setModels(["m"], of: members[3])
        #expect(fixture.step(#"{"model":"x","prompt":[1]}"#).1.error?.status == 404)
    }

    @Test func refusesLongBodiesByTheirLengthAndByTheirBytes() throws {
        let fixture = try Fixture { $0.maximumBodyBytes = 100 }
        let declared = fixture.session(headers: ["content-length": "101"])
        #expect(declared.begin(endOfBody: false).error?.status == 413)
        for path in ["/v1/completions", "/v1/embeddings"] {
            let counted = fixture.session("POST", path)
            _ = counted.begin(endOfBody: false)
            #expect(counted.feed(#"{"a":"\#(String(repeating: "x", count: 90))"#) == nil)
            #expect(counted.feed("xxxxx")?.error?.status == 413)
        }
    }

    @Test func anEmptyPoolIs503() throws {
        let error = try #require(
            try Fixture([], policy: .load).step(#"{"model":"m","prompt":[1]}"#).1.error)
        #expect(error.status == 503)
        #expect(
            error.headers == [.init("x-llm-d-request-dropped-reason", "rejected-no-endpoints")])
    }

    @Test func aPoolOfWhichNothingPassesIs429() throws {
        let error = try #require(
            try Fixture([server("p", 1, role: .prefill)]).step(#"{"model":"m","prompt":[1]}"#).1
                .error)
        #expect(error.status == 429)
        #expect(error.headers == [.init("x-llm-d-request-dropped-reason", "rejected-saturated")])
    }

    // MARK: - Other requests

    @Test(arguments: [("GET", "/v1/models"), ("POST", "/tokenize"), ("POST", "/v1/audio/speech")])
    func passesOthersUnread(method: String, path: String) throws {
        let fixture = try Fixture()
        let session = fixture.session(method, path, headers: ["x-request-id": "mine"])
        var step = session.begin(endOfBody: method == "GET")
        if method == "POST" {
            #expect(session.feed("no json") == nil)
            step = session.receivedEnd()
        }
        let decision = try #require(step.decision)
        #expect(decision.requestID == "mine")
        #expect(!decision.headers.contains(.set(name: "x-request-id", value: "mine")))
        #expect(session.body == Array((method == "GET" ? "" : "no json").utf8))
        session.completed(.finished)
    }

    @Test func onlyTheSubsetIsPicked() throws {
        let fixture = try Fixture()
        let address = disaggregated[3].address
        for _ in 0..<10 {
            let session = fixture.session("GET", "/v1/models")
            session.subset = [address]
            #expect(session.begin(endOfBody: true).decision?.endpoint.server.address == address)
            session.completed(.finished)
        }
        let session = fixture.session("GET", "/v1/models")
        session.subset = []
        #expect(session.begin(endOfBody: true).error?.status == 503)
    }

    @Test func longNamesOfModelsAreNotKept() throws {
        let fixture = try Fixture(policy: .load)
        let name = String(repeating: "n", count: 257)
        fixture.step(#"{"model":"\#(name)","prompt":[1]}"#).0.completed(.finished)
        #expect(fixture.metric("llm_d_epp_request_total", name) == 0)
        #expect(fixture.metric("llm_d_epp_request_total", #"model_name="other""#) == 1)
    }

    // MARK: - Load that is out of date

    /// However long the test takes.
    private let fresh = Duration.seconds(-60)

    /// The names of the endpoints that get some of many requests, by the load of each: waiting
    /// requests and the age of that figure.
    private func picked(
        _ loads: [(waiting: Int, age: Duration)]
    ) throws -> Set<String> {
        let servers = loads.indices.map { server("e\($0)", $0, role: .both) }
        let fixture = try Fixture(servers, policy: .load)
        let now = MonotonicTime.now
        for (member, figure) in zip(fixture.pool.snapshot.members, loads) {
            var load = ServerLoad()
            load.waitingCount = figure.waiting
            member.scraped(.load(load), at: now + (.zero - figure.age))
        }
        return Set(
            try (0..<50).map { _ in
                let (session, step) = fixture.step(#"{"model":"m","prompt":[1]}"#)
                defer { session.completed(.finished) }
                return try #require(step.decision).endpoint.server.name
            })
    }

    @Test func loadCountsWhileItIsFresh() throws {
        #expect(try picked([(10, fresh), (0, fresh)]) == ["e1"])
    }

    @Test func aLoadThatIsTooOldNeitherShunsNorDraws() throws {
        // With one other, the mean is that one's.
        #expect(try picked([(10, .seconds(3)), (0, fresh)]) == ["e0", "e1"])
        #expect(try picked([(0, .seconds(3)), (0, fresh), (8, fresh)]) == ["e1"])
        #expect(try picked([(9, .seconds(3)), (0, .seconds(4))]) == ["e0", "e1"])
    }

    // MARK: - Failures of endpoints

    @Test func triesAnotherEndpointAndAvoidsTheDeadOne() throws {
        let fixture = try Fixture(policy: .load)
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1]}"#)
        let first = try #require(step.decision).endpoint
        let second = try #require(session.endpointFailed().decision).endpoint
        #expect(second !== first)
        #expect(fixture.pool.snapshot.member(at: first.server.address)?.isHealthy == false)
        #expect(fixture.metric("llm_d_epp_ready_endpoints") == 3)
        for _ in 0..<10 {
            let (next, step) = fixture.step(#"{"model":"m","prompt":[1]}"#)
            #expect(step.decision?.endpoint === second)
            next.completed(.finished)
        }
        // The last decode endpoint fails, too.
        let error = try #require(session.endpointFailed().error)
        #expect(error.status == 502)
        #expect(fixture.inFlight == [0, 0, 0, 0])
    }

    @Test func givesUpAfterTheConfiguredAttempts() throws {
        let servers = (0..<6).map { server("d\($0)", $0, role: .both) }
        let fixture = try Fixture(servers, policy: .random) { $0.maximumAttempts = 3 }
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1]}"#)
        var last = step
        for _ in 0..<3 {
            #expect(last.decision != nil)
            last = session.endpointFailed()
        }
        #expect(last.error?.status == 502)
        #expect(fixture.inFlight.allSatisfy { $0 == 0 })
    }
}
