import Core
import ModelServers
import RequestPipeline
import Testing

/// SplitMix64.
struct SeededGenerator: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

@Suite struct CompletionTests {
    /// Whatever happens to sessions, in whatever order: at the end nothing is in flight.
    @Test(arguments: [UInt64](1...30))
    func nothingStaysInFlight(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let fixture = try Fixture(policy: RoutingPolicy.allCases[Int(seed % 4)])
        var sessions: [(RequestSession, Step)] = []
        for _ in 0..<200 {
            if sessions.isEmpty || Bool.random(using: &random) {
                let text = Bool.random(using: &random)
                sessions.append(
                    fixture.step(#"{"model":"m","prompt":\#(text ? #""x""# : prompt(30))}"#))
            }
            let index = Int.random(in: sessions.indices, using: &random)
            let (session, step) = sessions[index]
            switch Int.random(in: 0..<7, using: &random) {
            case 0: sessions[index].1 = session.tokenized(.success(Array(0..<40)))
            case 1:
                if step.decision != nil { sessions[index].1 = session.endpointFailed() }
            case 2:
                session.responseStarted(status: 200)
                session.respond("data: x\n\n")
            case 3: session.completed(.finished)
            case 4: session.completed(.failed(.badGateway("x")))
            case 5: session.completed(.clientGone)
            default: sessions.remove(at: index)
            }
            for member in fixture.pool.snapshot.members where !member.isHealthy {
                member.scraped(.load(ServerLoad()), at: .now + .seconds(10))
            }
        }
        sessions = []
        #expect(fixture.inFlight == [0, 0, 0, 0], "seed \(seed)")
        #expect(fixture.metric("llm_d_epp_request_running") == 0, "seed \(seed)")
    }

    @Test func aDroppedSessionReleasesItsEndpoint() throws {
        let fixture = try Fixture()
        do {
            let (_, step) = fixture.step(#"{"model":"m","prompt":\#(prompt(40))}"#)
            #expect(step.decision?.prefill != nil)
        }
        #expect(fixture.inFlight == [0, 0, 0, 0])
        #expect(fixture.metric("llm_d_epp_request_error_total", "499") == 1)
    }

    @Test func theBodyIsLetGoWhenTheResponseStarts() throws {
        let (session, _) = try Fixture().step(#"{"model":"m","prompt":[1]}"#)
        #expect(!session.body.isEmpty)
        session.responseStarted(status: 200)
        #expect(session.body.isEmpty)
        session.completed(.finished)
    }

    @Test func countsWhatTheEngineReports() throws {
        let fixture = try Fixture()
        let (session, _) = fixture.step(#"{"model":"m","stream":true,"prompt":\#(prompt(40))}"#)
        #expect(fixture.metric("llm_d_epp_request_running", #"model_name="m""#) == 1)
        #expect(fixture.metric("llm_d_epp_inflight_requests") == 2)
        #expect(fixture.metric("llm_d_epp_inflight_tokens") == 40)
        session.responseStarted(status: 200)
        let usage =
            #""usage":{"prompt_tokens":40,"completion_tokens":2,"#
            + #""prompt_tokens_details":{"cached_tokens":32}}"#
        session.respond(#"data: {"choices":[{"text":"a"}]}"# + "\n\n")
        session.respond(#"data: {"choices":[],"usa"#)
        session.respond(usage.dropFirst(4) + "}\n\ndata: [DONE]\n\n")
        session.completed(.finished)
        session.completed(.clientGone)
        #expect(fixture.metric("llm_d_epp_request_total") == 1)
        #expect(fixture.metric("llm_d_epp_request_error_total") == 0)
        #expect(fixture.metric("llm_d_epp_request_duration_seconds_count") == 1)
        #expect(fixture.metric("llm_d_epp_request_ttft_seconds_count", #"streaming="true""#) == 1)
        #expect(fixture.metric("llm_d_epp_request_input_tokens_sum") == 40)
        #expect(fixture.metric("llm_d_epp_request_output_tokens_sum") == 2)
        #expect(fixture.metric("llm_d_epp_request_cached_tokens_sum") == 32)
        #expect(fixture.metric("llm_d_epp_disagg_decision_total", "prefill-decode") == 1)
        #expect(fixture.metric("llm_d_epp_scheduler_e2e_duration_seconds_count") == 1)
        #expect(fixture.metric("llm_d_epp_request_running") == 0)
        #expect(fixture.metric("llm_d_epp_inflight_requests") == 0)
        #expect(fixture.metric("llm_d_epp_inflight_tokens") == 0)
    }

    /// The usage is found wherever in a response it falls, also across pieces.
    @Test(arguments: Array(stride(from: 8000, to: 8400, by: 23)), [1, 50, 5000])
    func aLongResponseKeepsItsUsage(padding: Int, pieceBytes: Int) throws {
        let fixture = try Fixture()
        let (session, _) = fixture.step(#"{"model":"m","prompt":[1]}"#)
        session.responseStarted(status: 200)
        var rest =
            (#"{"usage":{"prompt_tokens":9},"text":""# + String(repeating: "x", count: padding)
            + #"","usage": {"prompt_tokens":7},"kv_transfer_params":null}"#)[...]
        while !rest.isEmpty {
            let piece = rest.prefix(pieceBytes)
            session.respond(String(piece))
            rest = rest.dropFirst(pieceBytes)
        }
        session.completed(.finished)
        #expect(fixture.metric("llm_d_epp_request_input_tokens_sum") == 7)
    }

    @Test(arguments: RoutingPolicy.allCases)
    func everyPolicyLoadsAndRoutes(policy: RoutingPolicy) throws {
        let fixture = try Fixture(policy: policy)
        var prefills: Set<String> = []
        for number in 0..<20 {
            let tokens =
                "[" + (0..<40).map { String($0 + number * 100) }.joined(separator: ",") + "]"
            let (session, step) = fixture.step(#"{"model":"m","prompt":\#(tokens)}"#)
            prefills.insert(try #require(step.decision?.prefill).server.name)
            session.completed(.finished)
        }
        #expect(prefills == ["p0", "p1"])
    }
}
