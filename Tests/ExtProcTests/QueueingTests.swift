import Core
import ExtProc
import FlowControl
import ModelServers
import RequestPipeline
import Testing

@Suite struct QueueingTests {
    /// Engines that take one request between them.
    private func fixture() throws -> Fixture {
        var flow = FlowControlConfiguration()
        var detector = ConcurrencyDetector()
        detector.maxConcurrency = 1
        flow.detector = detector
        flow.enableEviction = true
        let fixture = try Fixture(engines: 1, flow: flow)
        fixture.pool.setRules(
            TrafficRules(
                objectives: (-10...10).map { InferenceObjective(name: "\($0)", priority: $0) }))
        return fixture
    }

    private func post(_ conversation: Conversation, priority: Int = 0) throws -> [Response] {
        try conversation.send(
            Request.requestHeaders(completion + [("x-llm-d-inference-objective", "\(priority)")]))
        return try conversation.send(
            Request.requestBody(#"{"model":"m","prompt":[1,2]}"#.utf8, end: true))
    }

    @Test func theAnswerWaitsForItsTurn() throws {
        let fixture = try fixture()
        let first = Conversation(fixture)
        #expect(try post(first).count == 2)
        let second = Conversation(fixture)
        #expect(try post(second).isEmpty)
        #expect(second.session.unheardTicket != nil)
        #expect(try second.signalled().isEmpty)
        first.session.closed()
        let responses = try second.signalled()
        #expect(responses.count == 2)
        #expect(responses.first?.set["x-gateway-destination-endpoint"] == "10.0.0.1:8000")
        second.session.closed()
        #expect(fixture.inFlightCount == 0)
    }

    /// An endpoint that mostly fails is used where there is no other, and has room.
    @Test func nobodyWaitsForAnEndpointThatOnlyFails() throws {
        let fixture = try fixture()
        for _ in 0..<20 {
            let conversation = Conversation(fixture)
            #expect(try post(conversation).count == 2)
            try conversation.send(Request.responseHeaders([(":status", "503")], end: true))
        }
        #expect(fixture.pool.snapshot.members.allSatisfy { !$0.isHealthy })
    }

    @Test func whoDoesNotGetATurnIsTold() throws {
        let fixture = try fixture()
        let first = Conversation(fixture)
        _ = try post(first)
        let second = Conversation(fixture)
        _ = try post(second)
        fixture.router.flow.shutdown()
        try expectDropped(try second.signalled(), 503, "rejected-shutting-down")
        #expect(second.status == 0)
        first.session.closed()
    }

    /// Before the response and in the middle of it.
    @Test(arguments: [false, true]) func anEvictedRequestIsAnsweredAtOnce(late: Bool) throws {
        let fixture = try fixture()
        let shed = Conversation(fixture)
        _ = try post(shed, priority: -1)
        if late {
            try shed.send(Request.responseHeaders([(":status", "200")]))
            try shed.send(Request.responseBody("data: 1\n\n"))
        }
        let important = Conversation(fixture)
        #expect(try post(important).isEmpty)
        try expectDropped(try shed.signalled(), 429, "evicted")
        #expect(shed.session.isComplete)
        #expect(try important.signalled().count == 2)
        important.session.closed()
        #expect(fixture.inFlightCount == 0)
    }

    /// The data plane gave up and answered on its own.
    @Test func aTurnThatComesTooLateIsNotTaken() throws {
        let fixture = try fixture()
        let first = Conversation(fixture)
        _ = try post(first)
        let second = Conversation(fixture)
        _ = try post(second)
        try second.send(Request.responseHeaders([(":status", "504")]))
        first.session.closed()
        #expect(try second.signalled().isEmpty)
        second.session.closed()
        #expect(fixture.inFlightCount == 0)
        #expect(try post(Conversation(fixture)).count == 2)
    }

    private func expectDropped(_ responses: [Response], _ status: Int, _ reason: String) throws {
        guard case .immediate(status, let headers, _) = responses.first else {
            Issue.record("\(responses)")
            return
        }
        #expect(headers.contains(["x-llm-d-request-dropped-reason", reason]))
    }
}
