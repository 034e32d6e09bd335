import Core
import Foundation
import Gateway
import LoopbackSupport
import ModelServers
import Net
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry
import Testing

let completion = #"{"model":"m","prompt":[1,2,3]}"#

@Suite(.timeLimit(.minutes(1))) struct GatewayTests {
    @Test func carriesARequestAndItsResponse() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send(
            "POST", "/v1/completions?x=1",
            ["x-request-id": "id-1", "x-forwarded-for": "1.2.3.4", "te": "trailers"],
            body: completion)
        let request = try await stage.engines[0].next()
        #expect(request.head.method == "POST")
        #expect(request.head.target == "/v1/completions?x=1")
        #expect(request.body == completion)
        let headers = request.head.headers
        #expect(headers[first: "x-request-id"] == "id-1")
        #expect(headers[first: "x-forwarded-for"] == "1.2.3.4, 127.0.0.1")
        #expect(headers.values(of: "content-length") == ["\(completion.utf8.count)"])
        #expect(headers[first: "te"] == nil)
        #expect(headers[first: "traceparent"]?.utf8.count == 55)
        request.respond(201, ["x-engine": "yes", "trailer": "t"], "answer")
        let response = try await call.response()
        #expect(response.status == 201)
        #expect(response.body == "answer")
        #expect(response.headers[first: "x-engine"] == "yes")
        #expect(response.headers[first: "x-request-id"] == "id-1")
        #expect(response.headers[first: "content-length"] == "6")
        #expect(response.headers[first: "trailer"] == nil)
        #expect(response.headers[first: "x-llmd-decode"] == nil)
        await stage.stop()
    }

    @Test func streamsEventsAsTheyCome() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        #expect(try await call.head().status == 200)
        // Each event is only sent once the client has got the one before.
        for number in 0..<20 {
            request.write("data: \(number)\n\n")
            #expect(try await call.body(until: "\n\n") == "data: \(number)\n\n")
        }
        request.finish()
        let (rest, failure) = try await call.rest()
        #expect(rest.isEmpty && failure == nil)
        await stage.stop()
    }

    @Test func namesTheEndpointsIfAskedTo() async throws {
        let stage = try await Stage(engines: 2) { $0.revealsEndpoints = true }
        for (told, name) in [
            (nil, nil), (stage.engines[1].address.description, "engine-1"), ("10.0.0.9:1", nil),
        ] {
            let call = stage.client.send("GET", "/v1/models")
            let request = try await stage.engines[0].next()
            #expect(request.head.method == "GET")
            request.respond(200, told.map { ["x-llmd-prefill": $0] } ?? [:])
            let headers = try await call.response().headers
            #expect(headers[first: "x-llmd-decode"] == "engine-0")
            #expect(headers.values(of: "x-llmd-prefill") == (name.map { [$0] } ?? []))
        }
        await stage.stop()
    }

    @Test func headersOfTheRouterStopHere() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send(
            "POST", "/v1/completions",
            ["x-prefiller-host-port": "evil:1", "x-gateway-destination-endpoint": "evil:1"],
            body: completion)
        let request = try await stage.engines[0].next()
        #expect(request.head.headers[first: "x-prefiller-host-port"] == nil)
        #expect(request.head.headers[first: "x-gateway-destination-endpoint"] == nil)
        request.respond(200)
        _ = try await call.response()
        await stage.stop()
    }

    @Test func aClientThatLeavesEndsTheRequestAtTheEngine() async throws {
        let stage = try await Stage(engines: 1)
        for isStreaming in [false, true] {
            let call = stage.client.send("POST", "/v1/completions", body: completion)
            let request = try await stage.engines[0].next()
            if isStreaming {
                request.begin(200, ["content-type": "text/event-stream"])
                request.write("data: 1\n\n")
                _ = try await call.head()
                _ = try await call.body(until: "\n\n")
            }
            #expect(stage.inFlightCount == 1)
            call.cancel()
            #expect(try await request.end() != .complete)
            // The engine heard of it, so the gateway has: the next request sees its state.
            try await stage.ping()
            #expect(stage.inFlightCount == 0)
        }
        await stage.stop()
    }

    @Test func aTornStreamSaysWhyAndDoesNotEndWell() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        request.write("data: 1\n\ndata: {\"cut")
        _ = try await call.head()
        _ = try await call.body(until: "cut")
        request.abort()
        let (rest, failure) = try await call.rest()
        let event = try #require(rest.split(separator: "\n").last)
        #expect(event.hasPrefix(#"data: {"error":{"message":"The model server failed"#))
        #expect(rest.hasPrefix("\n\n") && rest.hasSuffix("\n\n"))
        #expect(failure != nil)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func aTornBodyDoesNotEndWell() async throws {
        let stage = try await Stage(engines: 1)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "application/json"])
        request.write("{")
        _ = try await call.head()
        request.abort()
        let (rest, failure) = try await call.rest()
        #expect(rest == "{")
        #expect(failure != nil)
        await stage.stop()
    }

    @Test func goesToTheNextEngineWhenOneCannotBeReached() async throws {
        let stage = try await Stage(engines: 3)
        await stage.engines[0].stop()
        await stage.engines[1].stop()
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[2].next()
        #expect(request.body == completion)
        request.respond(200, [:], "here")
        #expect(try await call.response().body == "here")
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func whenNoEngineCanBeReachedTheClientGets502() async throws {
        let stage = try await Stage(engines: 2)
        for engine in stage.engines { await engine.stop() }
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 502)
        try expectError(response, type: "BadGateway")
        await stage.stop()
    }

    @Test func anEngineThatHangsUpBeforeItsAnswerIs502() async throws {
        let stage = try await Stage(engines: 2)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        try await stage.engines[0].next().abort()
        let response = try await call.response()
        #expect(response.status == 502)
        try expectError(response, type: "BadGateway")
        // The request was seen, and may be what broke the engine.
        #expect(!stage.engines[1].hasRequests)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    /// A server closed an idle connection as the request came, and is gone.
    @Test func aRequestLostWithAnIdleConnectionMovesOnOnce() async throws {
        let stage = try await Stage(engines: 3) {
            $0.client.idleCloseWindow = .seconds(60)
            $0.client.idleConnectionLifetime = .seconds(600)
        }
        for engine in stage.engines.indices { try await stage.serveOne(by: engine) }
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        _ = try await stage.engines[0].next()
        await stage.engines[0].stop()
        let moved = try await stage.engines[1].next()
        #expect(moved.body == completion)
        await stage.engines[1].stop()
        #expect(try await call.response().status == 502)
        #expect(!stage.engines[2].hasRequests)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func anEngineThatDiesLaterTakesTheRequestWithIt() async throws {
        let stage = try await Stage(engines: 2) {
            $0.client.idleCloseWindow = .zero
            $0.client.idleConnectionLifetime = .seconds(600)
        }
        try await stage.serveOne(by: 0)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        _ = try await stage.engines[0].next()
        await stage.engines[0].stop()
        #expect(try await call.response().status == 502)
        #expect(!stage.engines[1].hasRequests)
        await stage.stop()
    }

    @Test func anEngineThatDoesNotAnswerIs504() async throws {
        let stage = try await Stage(engines: 1) {
            $0.client.responseHeadTimeout = .milliseconds(50)
        }
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 504)
        try expectError(response, type: "GatewayTimeout")
        await stage.stop()
    }

    @Test func waitingForAnEngineIsNotIdling() async throws {
        let stage = try await Stage(engines: 1) {
            $0.server.idleTimeout = .milliseconds(20)
            $0.client.responseHeadTimeout = .milliseconds(300)
        }
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 504)
        await stage.stop()
    }

    @Test(arguments: [
        ("{", 400), (#"{"model":"other","prompt":[1]}"#, 404),
        (String(repeating: " ", count: 5000), 413),
    ])
    func faultsOfTheRequestAreAnsweredHere(body: String, status: Int) async throws {
        let stage = try await Stage(
            engines: 1,
            router: {
                $0.models = ["m"]
                $0.maximumBodyBytes = 4000
            })
        let response = try await stage.client.fetch(
            "POST", "/v1/completions", ["x-request-id": "id-2"], body: body)
        #expect(response.status == status)
        #expect(response.headers[first: "x-request-id"] == "id-2")
        try expectError(response)
        #expect(!stage.engines[0].hasRequests)
        try await stage.ping()
        await stage.stop()
    }

    @Test func anEmptyPoolIs503() async throws {
        let stage = try await Stage(engines: 0)
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 503)
        #expect(
            response.headers[first: "x-llm-d-request-dropped-reason"] == "rejected-no-endpoints")
        try expectError(response, type: "ServiceUnavailable")
        await stage.stop()
    }

    @Test func requestsBeyondTheLimitAreRefused() async throws {
        let stage = try await Stage(engines: 1) { $0.maximumConcurrentRequests = 1 }
        let first = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        let second = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(second.status == 503)
        #expect(second.headers[first: "retry-after"] == "1")
        try expectError(second, type: "ServiceUnavailable")
        // Health is not a request that waits in line.
        #expect(try await stage.client.fetch("GET", "/health").status == 200)
        request.respond(200)
        #expect(try await first.response().status == 200)
        let third = stage.client.send("GET", "/v1/models")
        try await stage.engines[0].next().respond(200)
        #expect(try await third.response().status == 200)
        await stage.stop()
    }

    @Test func aSlowClientHoldsUpTheEngine() async throws {
        let total = 96 << 20
        let stage = try await Stage(engines: 1)
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        _ = try await call.head()
        call.pause()
        request.flood(total)
        // Every ping is a turn of all loops: once none of them moves anything, all is still.
        var stillTurns = 0
        var before = -1
        while stillTurns < 30 {
            try await stage.ping()
            stillTurns = request.sentCount == before ? stillTurns + 1 : 0
            before = request.sentCount
        }
        #expect(request.sentCount < total / 2)
        call.resume()
        let (body, failure) = try await call.rest()
        #expect(failure == nil)
        #expect(body.utf8.count == request.sentCount)
        await stage.stop()
    }

    @Test func tokensAreAskedOfAnEngine() async throws {
        let stage = try await Stage(engines: 1, plugins: "{type: token-reader}, ")
        let body = #"{"model":"m","prompt":"text"}"#
        let call = stage.client.send("POST", "/v1/completions", body: body)
        let question = try await stage.engines[0].next()
        #expect(question.head.target == "/v1/completions/render")
        #expect(question.body == body)
        question.respond(200, [:], #"[{"token_ids":[1,2]}]"#)
        let request = try await stage.engines[0].next()
        #expect(request.head.target == "/v1/completions")
        request.respond(200)
        #expect(try await call.response().status == 200)
        await stage.stop()
    }

    @Test func servesHTTP2() async throws {
        let stage = try await Stage(engines: 1)
        let client = LoopbackClient(on: stage.group, to: stage.gateway.address, http2: true)
        let call = client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        request.write("data: 1\n\n")
        _ = try await call.head()
        #expect(try await call.body(until: "\n\n") == "data: 1\n\n")
        request.abort()
        let (rest, failure) = try await call.rest()
        #expect(rest.contains(#"data: {"error""#))
        #expect(failure != nil)
        await stage.stop()
    }
}

/// What the gateway makes of models and headers.
@Suite(.timeLimit(.minutes(1))) struct GatewayRewriteTests {
    private static let rules = TrafficRules(rewrites: [
        ModelRewrite(
            name: "r", createdAt: 0,
            rules: [
                ModelRewrite.Rule(
                    models: ["alias"], targets: [ModelRewrite.Target(model: "target-7b")])
            ])
    ])

    @Test func rewritesTheModelThereAndBack() async throws {
        let stage = try await Stage(engines: 1)
        stage.pool.setRules(Self.rules)
        let call = stage.client.send(
            "POST", "/v1/completions", ["accept-encoding": "gzip"],
            body: #"{"model":"alias","prompt":[1]}"#)
        let request = try await stage.engines[0].next()
        #expect(request.body == #"{"model":"target-7b","prompt":[1]}"#)
        #expect(
            request.head.headers.values(of: "content-length") == ["\(request.body.utf8.count)"])
        #expect(request.head.headers.values(of: "accept-encoding") == ["identity"])
        request.respond(200, [:], #"{"id":"1","model":"target-7b","usage":{}}"#)
        let response = try await call.response()
        #expect(response.body == #"{"id":"1","model":"alias","usage":{}}"#)
        await stage.stop()
    }

    @Test func rewritesEventsAsTheyCome() async throws {
        let stage = try await Stage(engines: 1)
        stage.pool.setRules(Self.rules)
        let call = stage.client.send(
            "POST", "/v1/chat/completions",
            body: #"{"model":"alias","messages":[],"stream":true}"#)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        _ = try await call.head()
        for number in 0..<20 {
            // Cut in the name, the first half of which may not wait for more than the second.
            request.write("data: {\"n\":\(number),\"model\":\"targ")
            request.write("et-7b\"}\n\n")
            #expect(
                try await call.body(until: "\n\n")
                    == "data: {\"n\":\(number),\"model\":\"alias\"}\n\n")
        }
        request.write("data: {\"model\":\"targ")
        request.finish()
        let (rest, failure) = try await call.rest()
        #expect(rest == "data: {\"model\":\"targ" && failure == nil)
        await stage.stop()
    }

    @Test func answersForTheModelsOfAllEngines() async throws {
        let stage = try await Stage(engines: 2)
        stage.pool.setRules(Self.rules)
        for (member, models) in zip(stage.pool.snapshot.members, [["a"], ["target-7b"]]) {
            stage.pool.setModels(models.map { ServedModel(id: $0) }, of: member)
        }
        let response = try await stage.client.fetch("GET", "/v1/models")
        #expect(response.status == 200)
        #expect(response.headers[first: "content-type"] == "application/json")
        let root = try JSONSerialization.jsonObject(with: Data(response.body.utf8))
        let data = try #require((root as? [String: Any])?["data"] as? [[String: Any]])
        #expect(data.compactMap { $0["id"] as? String } == ["a", "target-7b", "alias"])
        #expect(!stage.engines[0].hasRequests && !stage.engines[1].hasRequests)
        await stage.stop()
    }

    @Test func headersOfTheRouterPassInNeitherDirection() async throws {
        let stage = try await Stage(engines: 1)
        let names = [
            "X-LLM-D-Inference-Objective", "x-gateway-inference-fairness-id",
            "X-Prefiller-Host-Port", "x-llm-d-model-name-rewrite", "x-slo-ttft-ms",
            "x-gateway-destination-endpoint-served", "x-llm-d-request-dropped-reason",
        ]
        var headers: HTTPHeaders = ["x-other": "stays"]
        for name in names { headers.append(name, "1") }
        let call = stage.client.send("POST", "/v1/completions", headers, body: completion)
        let request = try await stage.engines[0].next()
        request.respond(200, headers, "{}")
        let response = try await call.response()
        for name in names {
            #expect(request.head.headers[first: name] == nil, "\(name)")
            #expect(response.headers[first: name] == nil, "\(name)")
        }
        #expect(request.head.headers[first: "x-other"] == "stays")
        #expect(response.headers[first: "x-other"] == "stays")
        // The header of the rewrite was obeyed, and stays behind.
        #expect(request.body == #"{"model":"1","prompt":[1,2,3]}"#)
        await stage.stop()
    }

    @Test func errorsHaveTheShapeOfTheAPI() async throws {
        let stage = try await Stage(engines: 1)
        let body = #"{"model":"m","messages":[],"stream":true}"#
        let call = stage.client.send("POST", "/v1/messages", body: body)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        request.write("event: ping\ndata: {}\n\n")
        _ = try await call.head()
        _ = try await call.body(until: "\n\n")
        request.abort()
        let (rest, _) = try await call.rest()
        #expect(rest.contains("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"))
        await stage.engines[0].stop()
        let response = try await stage.client.fetch("POST", "/v1/messages", body: body)
        #expect(response.status == 502)
        #expect(response.body.hasPrefix(#"{"type":"error","error":{"type":"api_error","#))
        await stage.stop()
    }
}

func expectError(_ response: LoopbackResponse, type: String? = nil) throws {
    #expect(response.headers[first: "content-type"] == "application/json")
    #expect(response.headers[first: "x-request-id"]?.isEmpty == false)
    let root = try JSONSerialization.jsonObject(with: Data(response.body.utf8)) as? [String: Any]
    let error = try #require(root?["error"] as? [String: Any])
    #expect(error["code"] as? Int == response.status)
    #expect((error["message"] as? String)?.isEmpty == false)
    if let type { #expect(error["type"] as? String == type) }
}

/// A gateway before some engines, of which each request gets the first that is eligible.
struct Stage {
    let group: EventLoopGroup
    let engines: [LoopbackServer]
    let pool = EndpointPool()
    let gateway: GatewayServer
    let client: LoopbackClient
    private let engineGroup: EventLoopGroup

    init(
        engines count: Int, plugins: String = "",
        _ adjust: (inout GatewayConfiguration) -> Void = { _ in },
        router adjustRouter: (inout RouterConfiguration) -> Void = { _ in }
    ) async throws {
        group = try EventLoopGroup(count: 1, name: "gateway")
        let engineGroup = try EventLoopGroup(count: 1, name: "engines")
        self.engineGroup = engineGroup
        engines = try (0..<count).map { _ in try LoopbackServer(on: engineGroup) }
        pool.update(
            engines.enumerated().map {
                ModelServer(name: "engine-\($0.offset)", address: $0.element.address)
            })
        var registry = PluginRegistry.standard
        registry.register("first-picker") { FirstPicker(name: $0.name) }
        registry.register("token-reader") { TokenReader(name: $0.name) }
        let metrics = MetricsRegistry()
        var routerConfiguration = RouterConfiguration()
        adjustRouter(&routerConfiguration)
        let router = Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins: [\(plugins){type: first-picker}]
                    """, file: "test", registry: registry),
            metrics: RouterMetrics(registry: metrics, pool: pool, poolName: "test"),
            configuration: routerConfiguration)
        var configuration = GatewayConfiguration(address: .ownLoopback())
        adjust(&configuration)
        gateway = try GatewayServer.start(
            on: group, router: router, configuration: configuration, metrics: metrics)
        client = LoopbackClient(on: engineGroup, to: gateway.address)
    }

    var inFlightCount: Int { pool.snapshot.members.map(\.inFlightCount).reduce(0, +) }

    /// Has one engine answer a request, so that the gateway keeps a connection to it.
    func serveOne(by engine: Int) async throws {
        let servers = engines.enumerated().map {
            ModelServer(name: "engine-\($0.offset)", address: $0.element.address)
        }
        pool.update([servers[engine]])
        let call = client.send("GET", "/v1/models")
        try await engines[engine].next().respond(200)
        #expect(try await call.response().status == 200)
        pool.update(servers)
    }

    /// Lets every loop turn round.
    func ping() async throws {
        #expect(try await client.fetch("GET", "/health").status == 200)
    }

    func stop() async {
        await gateway.drain(within: .zero)
        for engine in engines { await engine.stop() }
        group.shutdown()
        engineGroup.shutdown()
    }
}

/// Picks the first candidate of the pool.
private final class FirstPicker: Picker {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }

    func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        candidates = candidates.min { $0.index < $1.index }.map { [$0] } ?? []
    }
}

/// Wants the tokens of every prompt.
private final class TokenReader: DataProducer {
    let name: PluginName
    let promptNeeds = PromptNeeds.tokens

    init(name: PluginName) {
        self.name = name
    }

    func produce(into context: inout SchedulingContext) {}
}
