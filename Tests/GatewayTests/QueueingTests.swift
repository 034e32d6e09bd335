import Core
import FlowControl
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

private let dropped = "x-llm-d-request-dropped-reason"

@Suite(.timeLimit(.minutes(1))) struct QueueingTests {
    /// Two engines that take two requests each, and three times twenty requests at once.
    @Test func underOverloadTheHighBandIsServedAndTheSheddableIsShed() async throws {
        let stage = try await FlowStage(engines: 2, concurrency: 2) {
            $0.defaultNegativeBand.maxRequests = 5
        }
        var calls: [(priority: Int, call: LoopbackCall)] = []
        // The sheddable ones come first: they fill the pool and their queue.
        for priority in [-1, 0, 10] {
            for number in 0..<20 {
                calls.append((priority, stage.send(priority: priority, flow: "t\(number % 3)")))
            }
            if priority < 0 { try await stage.waitUntil { $0.waitingCount == 5 } }
        }
        try await stage.waitUntil { $0.waitingCount == 45 }
        #expect(stage.inFlightCount == 4)

        // The engines answer one by one; each answer makes room for one more.
        var order: [Int] = []
        for _ in 0..<49 {
            let request = try await stage.nextRequest()
            order.append(try #require(Int(request.head.headers[first: "x-priority"] ?? "")))
            #expect(stage.inFlightCount <= 4)
            request.respond(200, [:], "done")
        }
        #expect(order.prefix(4) == [-1, -1, -1, -1])
        // Those that are sent at the same time, four at most, may overtake each other on the way.
        let queued = Array(order.dropFirst(4))
        for (index, priority) in queued.enumerated() {
            #expect(queued.dropFirst(index + 4).allSatisfy { $0 <= priority }, "\(queued)")
        }

        var statuses: [Int: [Int: Int]] = [:]
        for (priority, call) in calls {
            let response = try await call.response()
            statuses[priority, default: [:]][response.status, default: 0] += 1
            if response.status == 429 {
                #expect(response.headers[first: dropped] == "rejected-saturated")
                #expect(response.body.contains("TooManyRequests"))
            }
        }
        #expect(statuses == [10: [200: 20], 0: [200: 20], -1: [200: 9, 429: 11]])
        #expect(stage.waitingCount == 0)
        #expect(stage.inFlightCount == 0)
        #expect(
            stage.metric("requests_total", "outcome=\"Dispatched\"") == 49)
        #expect(stage.metric("requests_total", "outcome=\"RejectedCapacity\"") == 11)
        #expect(stage.metric("queue_size") == 0)
        await stage.stop()
    }

    @Test func waitsForTheFirstEngineToComeUp() async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 2)
        let servers = stage.pool.snapshot.members.map(\.endpoint.server)
        stage.pool.update([])
        let call = stage.send()
        try await stage.waitUntil { $0.waitingCount == 1 }
        stage.pool.update(servers)
        try await stage.nextRequest().respond(200)
        #expect(try await call.response().status == 200)
        await stage.stop()
    }

    @Test func whoWaitsTooLongIsTold() async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 1) {
            $0.defaultRequestTTL = .milliseconds(30)
            $0.noEndpointRequestTTL = .milliseconds(20)
        }
        let served = stage.send()
        let request = try await stage.nextRequest()
        let late = try await stage.send().response()
        #expect(late.status == 429)
        #expect(late.headers[first: dropped] == "rejected-ttl-expired")
        request.respond(200)
        #expect(try await served.response().status == 200)
        stage.pool.update([])
        let lost = try await stage.send().response()
        #expect(lost.status == 503)
        #expect(lost.headers[first: dropped] == "rejected-no-endpoints")
        await stage.stop()
    }

    @Test func aClientThatLeavesTheQueueIsForgotten() async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 1)
        let first = stage.send()
        let request = try await stage.nextRequest()
        let second = stage.send()
        try await stage.waitUntil { $0.waitingCount == 1 }
        second.cancel()
        try await stage.waitUntil { $0.waitingCount == 0 }
        #expect(stage.metric("requests_total", "outcome=\"EvictedContextCancelled\"") == 1)
        request.respond(200)
        #expect(try await first.response().status == 200)
        #expect(!stage.hasRequests)
        await stage.stop()
    }

    @Test(arguments: [false, true])
    func aSheddableRequestMakesRoom(isStreaming: Bool) async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 1) { $0.enableEviction = true }
        let shed = stage.send(priority: -1)
        let request = try await stage.nextRequest()
        if isStreaming {
            request.begin(200, ["content-type": "text/event-stream"])
            request.write("data: 1\n\n")
            _ = try await shed.head()
            _ = try await shed.body(until: "\n\n")
        }
        let important = stage.send(priority: 1)
        if isStreaming {
            // What has begun cannot become a 429: it is broken off, and says why.
            let (rest, failure) = try await shed.rest()
            #expect(rest.contains("request evicted by flow control"))
            #expect(failure != nil)
        } else {
            let response = try await shed.response()
            #expect(response.status == 429)
            #expect(response.headers[first: dropped] == "evicted")
        }
        #expect(try await request.end() != .complete)
        try await stage.nextRequest().respond(200)
        #expect(try await important.response().status == 200)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func whoWaitsAtShutdownIsTold() async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 1)
        let first = stage.send()
        let request = try await stage.nextRequest()
        let second = stage.send()
        try await stage.waitUntil { $0.waitingCount == 1 }
        async let drained: Void = stage.gateway.drain(within: .seconds(30))
        let response = try await second.response()
        #expect(response.status == 503)
        #expect(response.headers[first: dropped] == "rejected-shutting-down")
        // What is served already is served to its end.
        request.respond(200)
        #expect(try await first.response().status == 200)
        await drained
        await stage.stop()
    }

    @Test func withoutTheGateOnlySheddableRequestsAreRefused() async throws {
        let stage = try await FlowStage(engines: 1, concurrency: 1, isEnabled: false)
        let calls = [0, 0].map { stage.send(priority: $0) }
        let requests = [try await stage.nextRequest(), try await stage.nextRequest()]
        let shed = try await stage.send(priority: -1).response()
        #expect(shed.status == 429)
        #expect(shed.headers[first: dropped] == "rejected-saturated")
        #expect(shed.body.contains("system saturated, sheddable request dropped"))
        for request in requests { request.respond(200) }
        for call in calls { #expect(try await call.response().status == 200) }
        let late = stage.send(priority: -1)
        try await stage.nextRequest().respond(200)
        #expect(try await late.response().status == 200)
        await stage.stop()
    }
}

/// A gateway with flow control before engines that take `concurrency` requests each.
private struct FlowStage {
    let pool = EndpointPool()
    let gateway: GatewayServer
    private let flow: FlowController
    private let metrics = MetricsRegistry()
    private let engines: [LoopbackServer]
    private let client: LoopbackClient
    private let group: EventLoopGroup
    private let engineGroup: EventLoopGroup
    private let requests = Inbox<LoopbackRequest>()
    private let collectors: [Task<Void, Never>]

    init(
        engines count: Int, concurrency: Int, isEnabled: Bool = true,
        _ adjust: (inout FlowControlConfiguration) -> Void = { _ in }
    ) async throws {
        group = try EventLoopGroup(count: 2, name: "gateway")
        let engineGroup = try EventLoopGroup(count: 1, name: "engines")
        self.engineGroup = engineGroup
        engines = try (0..<count).map { _ in try LoopbackServer(on: engineGroup) }
        let requests = requests
        collectors = engines.map { engine in
            Task {
                while let request = try? await engine.next() { requests.put(request) }
            }
        }
        pool.update(
            engines.enumerated().map {
                ModelServer(name: "engine-\($0.offset)", address: $0.element.address)
            },
            rules: TrafficRules(
                objectives: (-10...10).map { InferenceObjective(name: "\($0)", priority: $0) }))
        var flowConfiguration = FlowControlConfiguration()
        var detector = ConcurrencyDetector()
        detector.maxConcurrency = concurrency
        flowConfiguration.detector = detector
        adjust(&flowConfiguration)
        let flow = FlowController(
            flowConfiguration, isEnabled: isEnabled, pool: pool, registry: metrics)
        self.flow = flow
        let loop = group.loops[0]
        loop.execute { loop.schedule(every: .milliseconds(2)) { flow.tick() } }
        let router = Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins: [{type: active-request-scorer}]
                    """, file: "test", registry: .standard),
            metrics: RouterMetrics(registry: metrics, pool: pool, poolName: "test"),
            flow: flow)
        gateway = try GatewayServer.start(
            on: group, router: router,
            configuration: GatewayConfiguration(address: .ownLoopback()), metrics: metrics)
        client = LoopbackClient(on: engineGroup, to: gateway.address)
    }

    var inFlightCount: Int { pool.snapshot.members.map(\.inFlightCount).reduce(0, +) }
    var waitingCount: Int { Int(metric("queue_size")) }
    var hasRequests: Bool { requests.count > 0 }

    func send(priority: Int = 0, flow: String = "t") -> LoopbackCall {
        client.send(
            "POST", "/v1/completions",
            [
                "x-priority": "\(priority)", "x-llm-d-inference-objective": "\(priority)",
                "x-llm-d-inference-fairness-id": flow,
            ],
            body: completion)
    }

    func nextRequest() async throws -> LoopbackRequest { try await requests.next() }

    /// Lets all loops turn round until something holds.
    func waitUntil(_ condition: (FlowStage) -> Bool) async throws {
        while !condition(self) {
            #expect(try await client.fetch("GET", "/health").status == 200)
        }
    }

    /// The sum of a metric's samples whose labels contain `text`.
    func metric(_ name: String, _ text: String = "") -> Double {
        String(decoding: metrics.exposition(), as: UTF8.self).split(separator: "\n")
            .filter { $0.hasPrefix("llm_d_epp_flow_control_\(name){") }
            .filter { text.isEmpty || $0.contains(text) }
            .compactMap { Double($0.split(separator: " ").last ?? "") }
            .reduce(0, +)
    }

    func stop() async {
        for collector in collectors { collector.cancel() }
        await gateway.drain(within: .zero)
        for engine in engines { await engine.stop() }
        group.shutdown()
        engineGroup.shutdown()
    }
}
