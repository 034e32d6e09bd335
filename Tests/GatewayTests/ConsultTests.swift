import Core
import LoopbackSupport
import Net
import Relay
import Scheduling
import SchedulingPlugins
import Synchronization
import Testing

/// The latency predictor and other services that a decision goes by, as they are on the wire.
@Suite(.timeLimit(.minutes(1))) struct ConsultTests {
    /// A group and a server that stands for the service.
    private static func service() throws -> (EventLoopGroup, LoopbackServer) {
        let group = try EventLoopGroup(count: 1, name: "service")
        return (group, try LoopbackServer(on: group))
    }

    private static func predictor(_ address: SocketAddress) -> String {
        "{type: predicted-latency-producer, parameters: "
            + "{predictionURLs: [\"http://\(address)\"], timeout: 30s}}, "
    }

    private static func scorer(_ url: String, _ parameters: String) -> String {
        "{type: remote-scorer, parameters: {url: \"\(url)\", \(parameters)}}, "
    }

    private static let fast = #"{"predictions":[{"ttft_ms":9,"tpot_ms":9}]}"#

    private func send(_ stage: Stage) -> LoopbackCall {
        stage.client.send("POST", "/v1/completions", body: completion)
    }

    @Test func theAnswerComesBeforeTheDecision() async throws {
        let (group, service) = try Self.service()
        let stage = try await Stage(engines: 1, plugins: Self.predictor(service.address))
        for _ in 0..<2 {
            let call = send(stage)
            let question = try await service.next()
            #expect(question.head.method == "POST")
            #expect(question.head.target == "/predict/bulk/strict")
            #expect(question.head.headers[first: "content-type"] == "application/json")
            #expect(question.body.contains(#""input_token_length":3,"#))
            // No engine has heard of the request while it is asked about.
            #expect(!stage.engines[0].hasRequests)
            question.respond(200, [:], Self.fast)
            try await stage.engines[0].next().respond(200, [:], "done")
            #expect(try await call.response().status == 200)
        }
        await stage.stop()
        await service.stop()
        group.shutdown()
    }

    @Test func whoIsDownCostsNothing() async throws {
        let (group, service) = try Self.service()
        let address = service.address
        await service.stop()
        let stage = try await Stage(engines: 1, plugins: Self.predictor(address))
        // The deadline is far away: all are decided without it.
        for _ in 0..<5 {
            let call = send(stage)
            try await stage.engines[0].next().respond(200)
            #expect(try await call.response().status == 200)
        }
        await stage.stop()
        group.shutdown()
    }

    @Test func aUnixSocketIsAskedAsAPort() async throws {
        let (group, service) = try Self.service()
        let socket = try UnixForwarder(to: service.address)
        let stage = try await Stage(
            engines: 2,
            plugins: Self.scorer("unix:\(socket.path)", "timeout: 30s")
                + "{type: max-score-picker}, ")
        for scores in [[1.0, 0], [0, 1]] {
            let call = send(stage)
            let question = try await service.next()
            #expect(question.head.method == "POST")
            #expect(question.head.target == "/")
            #expect(question.head.authority == "localhost")
            #expect(question.body.contains(#""name":"engine-1""#))
            question.respond(200, [:], "{\"scores\":\(scores)}")
            try await stage.engines[scores[0] == 1 ? 0 : 1].next().respond(200)
            #expect(try await call.response().status == 200)
        }
        socket.stop()
        await stage.stop()
        await service.stop()
        group.shutdown()
    }

    @Test func aSocketThatIsNotThereCostsNothing() async throws {
        let stage = try await Stage(
            engines: 1, plugins: Self.scorer("unix:/nowhere/at/all", "timeout: 30s"))
        let call = send(stage)
        try await stage.engines[0].next().respond(200)
        #expect(try await call.response().status == 200)
        await stage.stop()
    }

    /// Which of the two is asked first is a matter of chance.
    @Test func afterASocketThatIsNotThereTheNextServerIsAsked() async throws {
        let (group, service) = try Self.service()
        let stage = try await Stage(
            engines: 1,
            plugins: "{type: predicted-latency-producer, parameters: {timeout: 30s, "
                + "predictionURLs: [\"unix:/nowhere/at/all\", \"http://\(service.address)\"]}}, ")
        for _ in 0..<20 {
            let call = send(stage)
            try await service.next().respond(200, [:], Self.fast)
            try await stage.engines[0].next().respond(200)
            #expect(try await call.response().status == 200)
        }
        await stage.stop()
        await service.stop()
        group.shutdown()
    }

    @Test(arguments: [false, true])
    func whoIsTooSlowIsNotWaitedFor(overUnixSocket: Bool) async throws {
        let (group, service) = try Self.service()
        let socket = try UnixForwarder(to: service.address)
        let url = overUnixSocket ? "unix:\(socket.path)" : "http://\(service.address)"
        let stage = try await Stage(engines: 1, plugins: Self.scorer(url, "timeout: 20ms"))
        let call = send(stage)
        let question = try await service.next()
        try await stage.engines[0].next().respond(200)
        #expect(try await call.response().status == 200)
        #expect(try await question.end() != .complete)
        socket.stop()
        await stage.stop()
        await service.stop()
        group.shutdown()
    }

    @Test func aClientThatLeavesEndsTheQuestion() async throws {
        let (group, service) = try Self.service()
        let stage = try await Stage(engines: 1, plugins: Self.predictor(service.address))
        let call = send(stage)
        let question = try await service.next()
        call.cancel()
        #expect(try await question.end() != .complete)
        #expect(!stage.engines[0].hasRequests)
        await stage.stop()
        await service.stop()
        group.shutdown()
    }

    @Test func postsOneAtATime() async throws {
        let (group, service) = try Self.service()
        let loop = try EventLoop.start(name: "posts")
        let waiting = Mutex(["a", "b", "c"])
        let ends = Inbox<Int>()
        let turns = Inbox<Void>()
        let address = service.address
        let post = PeriodicPost(every: .milliseconds(1), on: loop) {
            guard let next = waiting.withLock({ $0.isEmpty ? nil : $0.removeFirst() }) else {
                return nil
            }
            return ServiceQuestion(
                servers: [address], path: "/add_training_data_bulk", body: Array(next.utf8),
                timeout: .seconds(30), maximumAnswerBytes: 1024)
        } ended: { outcome in
            if case .answered(let status, _) = outcome { ends.put(status) } else { ends.put(0) }
        }
        for (text, status) in [("a", 202), ("b", 500)] {
            let request = try await service.next()
            #expect(request.head.target == "/add_training_data_bulk")
            #expect(request.body == text)
            // While this one runs its turn comes again, and nothing is taken.
            let left = waiting.withLock(\.count)
            loop.execute { loop.schedule(after: .milliseconds(20)) { turns.put(()) } }
            try await turns.next()
            #expect(waiting.withLock(\.count) == left)
            request.respond(status)
            #expect(try await ends.next() == status)
        }
        _ = try await service.next()
        await service.stop()
        #expect(try await ends.next() == 0)
        post.stop()
        loop.shutdown()
        group.shutdown()
    }
}
