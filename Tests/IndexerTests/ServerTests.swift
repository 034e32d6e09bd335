import Core
import Indexer
import KVIndex
import LoopbackSupport
import ModelServers
import Net
import Scan
import Synchronization
import Telemetry
import Testing

private let podScores = "/indexer.v1.IndexerService/GetPodScores"
private let prompt: [UInt32] = Array(1...12)
private let render = #"[{"token_ids":[1,2,3,4,5,6,7,8,9,10,11,12]}]"#

@Suite(.timeLimit(.minutes(1))) struct ServerTests {
    @Test func scoresAPromptByTheTokensOfAnEngine() async throws {
        let stage = try Stage()
        try stage.shelf.store(prompt, blocks: 0..<2, at: "a")
        try stage.shelf.store(prompt, in: .cpu, at: "b@dp1")
        async let answer = stage.scores(of: "once \"upon\"", model: "m")
        let question = try await stage.engine.next()
        #expect(question.head.method == "POST")
        #expect(question.head.target == "/v1/completions/render")
        let body = try document(question.body)
        #expect(body["model"]?.string == "m")
        #expect(body["prompt"]?.string == "once \"upon\"")
        question.respond(200, [:], render)
        // 2.4 = 3 x 0.8, as a double; 0x40 0 is the exponent of 2.
        let best = field(1, "b") + [0x11] + bytes(of: 3 * 0.8) + [0x18, 1]
        let second = field(1, "a") + [0x11] + bytes(of: 2)
        #expect(
            try await answer
                == [0x0A, UInt8(best.count)] + best + [0x0A, UInt8(second.count)] + second)

        async let filtered = stage.scores(of: "x", model: "m", pods: ["10.0.0.1:8000"])
        try await stage.engine.next().respond(200, [:], render)
        let named = field(1, "10.0.0.1:8000") + [0x11] + bytes(of: 2)
        #expect(try await filtered == [0x0A, UInt8(named.count)] + named)

        async let nobody = stage.scores(of: "x", model: "n")
        try await stage.engine.next().respond(200, [:], render)
        #expect(try await nobody == [])
        #expect(stage.page.contains(#"requests_total{method="GetPodScores",code="0"} 3"#))
        await stage.stop()
    }

    @Test(arguments: [
        (404, #"{"error":{"message":"no such model"}}"#, 5, "no such model"),
        (400, "", 3, "answered 400"),
        (429, "", 14, "answered 429"),
        (500, "", 14, "answered 500"),
        (200, "[]", 14, "no token ids"),
        (200, "nonsense", 14, "answer"),
    ])
    func failuresOfTheTokenizerAreTold(
        status: Int, body: String, code: Int, part: String
    ) async throws {
        let stage = try Stage()
        async let failure = stage.failure("x", model: "m")
        try await stage.engine.next().respond(status, [:], body)
        let thrown = await failure
        #expect(thrown?.code == code)
        #expect(thrown?.message.contains(part) == true, "\(thrown?.message ?? "")")
        await stage.stop()
    }

    @Test func aSlowTokenizerIsNotWaitedFor() async throws {
        let stage = try Stage { $0.tokenizeTimeout = .milliseconds(50) }
        let thrown = await stage.failure("x", model: "m")
        #expect(thrown?.code == 4)
        #expect(thrown?.message.contains("in time") == true)
        await stage.stop()
    }

    @Test func nobodyToAskIsUnavailable() async throws {
        let alone = try Stage { _ in }
        alone.pool.update([])
        #expect(await alone.failure("x", model: "m")?.code == 14)
        await alone.stop()

        let stage = try Stage { $0.tokenizer = .ownLoopback(port: 1) }
        let thrown = await stage.failure("x", model: "m")
        #expect(thrown?.code == 14)
        #expect(thrown?.message.contains("connect") == true, "\(thrown?.message ?? "")")
        await stage.stop()
    }

    @Test func anEngineThatIsGoneIsPassedOver() async throws {
        let stage = try Stage()
        stage.pool.update([
            ModelServer(name: "gone", address: .ownLoopback(port: 1)),
            ModelServer(name: "there", address: stage.engine.address),
        ])
        for _ in 0..<2 {
            async let answer = stage.scores(of: "x", model: "m")
            try await stage.engine.next().respond(200, [:], render)
            #expect(try await answer == [])
        }
        await stage.stop()
    }

    @Test func questionsAreBoundedAndEndWithTheirClients() async throws {
        let stage = try Stage { $0.maximumTokenizations = 1 }
        let call = stage.client.send(
            "POST", podScores, ["content-type": "application/grpc"],
            body: String(decoding: frame(field(1, "x") + field(2, "m")), as: UTF8.self))
        let question = try await stage.engine.next()
        let thrown = await stage.failure("y", model: "m")
        #expect(thrown?.code == 14)
        #expect(thrown?.message.contains("1 prompts") == true)
        call.cancel()
        #expect(try await question.end() != .complete)
        // The place is free again.
        async let answer = stage.scores(of: "z", model: "m")
        try await stage.engine.next().respond(200, [:], render)
        #expect(try await answer == [])
        #expect(stage.page.contains(#"requests_total{method="GetPodScores",code="1"} 1"#))
        await stage.stop()
    }

    @Test func badCallsAreInvalid() async throws {
        let stage = try Stage { $0.maximumBodyBytes = 1000 }
        func code(_ body: [UInt8], _ path: String = podScores) async throws -> Int? {
            let call = stage.client.stream("POST", path, ["content-type": "application/grpc"])
            call.write(body)
            call.finish()
            _ = try await call.head()
            guard case .end(let trailers) = try await call.next() else { return nil }
            return trailers.flatMap(GRPCStatus.init(trailers:))?.code
        }
        let good = frame(field(1, "x") + field(2, "m"))
        #expect(try await code([]) == 3)
        #expect(try await code(good + good) == 3)
        #expect(try await code(Array(good.dropLast())) == 3)
        #expect(try await code([1] + good.dropFirst()) == 3)
        #expect(try await code(frame([0x08, 0x01])) == 3)
        #expect(try await code(frame(field(1, "x"))) == 3)
        #expect(try await code(frame(field(2, "m"))) == 3)
        #expect(try await code([0, 0, 0, 4, 0]) == 8)
        #expect(try await code(good, "/indexer.v1.IndexerService/Other") == 12)
        await stage.stop()
    }

    @Test(arguments: [true, false]) func queriesComeByBothVersions(http2: Bool) async throws {
        let stage = try Stage(http2: http2)
        try stage.shelf.store(prompt, at: "a")
        let response = try await stage.client.fetch(
            "POST", "/query", body: #"{"model":"m","block_size":4,"token_ids":\#(prompt)}"#)
        #expect(response.status == 200)
        #expect(response.headers[first: "content-type"] == "application/json")
        #expect(
            response.body == """
                {"instances":{"a":{"longest_matched":12,"dp":{"0":12},"gpu":12,"cpu":12,"disk":12},\
                "b":{"longest_matched":0,"dp":{"0":0,"1":0},"gpu":0,"cpu":0,"disk":0}}}
                """)
        await stage.stop()
    }

    @Test(arguments: [
        ("GET", "/query", "", 405, "method_not_allowed"),
        ("POST", "/querys", "{}", 404, "not_found"),
        ("POST", "/", "{}", 404, "not_found"),
        ("POST", "/query", "", 400, "invalid_json"),
        ("POST", "/query", "{", 400, "invalid_json"),
        ("POST", "/query", "{} {}", 400, "invalid_json"),
        ("POST", "/query", "{}", 400, "missing"),
        ("POST", "/query", String(repeating: " ", count: 1001), 413, "too_large"),
        ("POST", "/register", "{}", 400, "missing"),
        ("POST", "/unregister", #"{"instance_id":"x"}"#, 404, "not_found"),
    ])
    func badRequestsAreRefused(
        method: String, path: String, body: String, status: Int, reason: String
    ) async throws {
        let stage = try Stage { $0.maximumBodyBytes = 1000 }
        let response = try await stage.client.fetch(method, path, body: body)
        #expect(response.status == status)
        #expect(try document(response.body)["reason"]?.string == reason)
        #expect((response.headers[first: "allow"] == "POST") == (status == 405))
        await stage.stop()
    }

    @Test func longAndForeignBodiesAreRefused() async throws {
        let stage = try Stage(http2: false) { $0.maximumBodyBytes = 1000 }
        let call = stage.client.stream("POST", "/query")
        for _ in 0..<4 { call.write(String(repeating: " ", count: 300)) }
        #expect(try await call.response().status == 413)
        let response = try await stage.client.fetch(
            "POST", "/query", ["content-type": "application/msgpack"], body: "\u{1}")
        #expect(response.status == 415)
        await stage.stop()
    }

    @Test func enginesRegister() async throws {
        let stage = try Stage()
        let body = """
            {"endpoint":"tcp://10.9.9.9:5557","modelname":"m","instance_id":"i","block_size":4}
            """
        let response = try await stage.client.fetch("POST", "/register", body: body)
        #expect(response.body == #"{"status":"registered successfully","instance_id":"i"}"#)
        #expect(stage.shelf.published.list.last?.name == "i@dp0")
        let gone = try await stage.client.fetch(
            "POST", "/unregister", body: #"{"instance_id":"i","dp_rank":0}"#)
        #expect(
            gone.body == """
                {"status":"unregistered successfully","removed_instances":["i|default|0"]}
                """)
        #expect(stage.shelf.published.list.last?.name == "b@dp1")
        await stage.stop()

        let closed = try Stage { $0.allowsRegistration = false }
        #expect(try await closed.client.fetch("POST", "/register", body: body).status == 404)
        await closed.stop()
    }

    @Test func tellsItsHealthOverTLS() async throws {
        let stage = try Stage(isSecure: true)
        func health(_ service: String) async throws(GRPCStatus) -> [UInt8] {
            try await stage.grpc.unary(
                path: GRPCHealthService.path, to: stage.server.address,
                message: field(1, service), timeout: .seconds(10))
        }
        #expect(try await health("") == [8, 1])
        #expect(try await health("indexer.v1.IndexerService") == [8, 1])
        let thrown = await #expect(throws: GRPCStatus.self) { try await health("other") }
        #expect(thrown?.code == 5)
        await stage.stop()
    }

    @Test func drainingWaitsForRunningCalls() async throws {
        let stage = try Stage()
        async let answer = stage.scores(of: "x", model: "m")
        let question = try await stage.engine.next()
        async let drained: Void = stage.server.drain(within: .seconds(30))
        while (try? await stage.client.fetch("POST", "/query", body: "{}")) != nil {}
        question.respond(200, [:], render)
        #expect(try await answer == [])
        await drained
        await stage.stop()
    }
}

/// An indexer on loopback over the engines `a`, `b@dp0` and `b@dp1`, and an engine that tells
/// tokens.
private struct Stage {
    let shelf: Shelf
    let group: EventLoopGroup
    let pool = EndpointPool()
    let engine: LoopbackServer
    let server: IndexerServer
    let client: LoopbackClient
    let grpc: HTTPClient
    private let metrics = MetricsRegistry()

    init(
        http2: Bool = true, isSecure: Bool = false,
        _ adjust: (inout IndexerConfiguration) -> Void = { _ in }
    ) throws {
        shelf = try Shelf("a", "b@dp0", "b@dp1")
        group = try EventLoopGroup(count: 2, name: "indexer")
        engine = try LoopbackServer(on: group)
        pool.update([ModelServer(name: "engine", address: engine.address)])
        var configuration = IndexerConfiguration(address: .ownLoopback())
        if isSecure { configuration.tls = try .selfSigned(names: ["localhost"]) }
        adjust(&configuration)
        server = try IndexerServer.start(
            on: group, lookup: shelf.lookup(), engines: shelf.engines, pool: pool,
            configuration: configuration, metrics: metrics)
        let tls = isSecure ? try TLSClientContext(verify: .none) : nil
        client = LoopbackClient(on: group, to: server.address, http2: http2, tls: tls)
        var clientConfiguration = HTTPClientConfiguration()
        clientConfiguration.http2 = true
        clientConfiguration.tls = tls
        grpc = HTTPClient(on: group.loops[0], configuration: clientConfiguration)
    }

    func scores(
        of prompt: String, model: String, pods: [String] = []
    ) async throws(GRPCStatus) -> [UInt8] {
        try await grpc.unary(
            path: podScores, to: server.address,
            message: field(1, prompt) + field(2, model) + pods.flatMap { field(3, $0) },
            timeout: .seconds(30))
    }

    /// The status of a call that fails.
    func failure(_ prompt: String, model: String) async -> GRPCStatus? {
        await #expect(throws: GRPCStatus.self) { try await scores(of: prompt, model: model) }
    }

    /// What `/metrics` shows.
    var page: String { String(decoding: metrics.exposition(), as: UTF8.self) }

    func stop() async {
        await server.drain(within: .zero)
        await engine.stop()
        group.shutdown()
    }
}

private func frame(_ message: [UInt8]) -> [UInt8] { [0, 0, 0, 0, UInt8(message.count)] + message }

private func bytes(of value: Double) -> [UInt8] {
    withUnsafeBytes(of: value.bitPattern.littleEndian) { Array($0) }
}
