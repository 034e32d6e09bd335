import Core
import ModelServers
import Net
import Synchronization
import Telemetry
import Testing

/// A model server of which the test says what it answers.
private final class StubEngine: Sendable {
    let status = Atomic<Int>(200)
    let waiting = Atomic<Int>(0)
    let scrapes = Atomic<Int>(0)
    /// Called on the loop of each scrape with the number of scrapes so far.
    let onScrape = Mutex<(@Sendable (Int, EventLoop) -> Void)?>(nil)

    func listen(on group: EventLoopGroup, port: UInt16 = 0) throws -> HTTPServer {
        try HTTPServer.listen(on: group, at: SocketAddress(host: "127.0.0.1", port: port)) {
            exchange in
            let page: String
            if exchange.head.path == "/v1/models" {
                page = #"{"object":"list","data":[{"id":"m"}]}"#
            } else {
                let count = self.scrapes.wrappingAdd(1, ordering: .relaxed).newValue
                self.onScrape.withLock(\.self)?(count, exchange.loop)
                page = "vllm:num_requests_waiting \(self.waiting.load(ordering: .relaxed))\n"
            }
            let head = HTTPResponseHead(status: self.status.load(ordering: .relaxed))
            Array(page.utf8).withUnsafeBytes { exchange.respond(head, body: $0) }
            return StubDelegate()
        }
    }
}

private final class StubDelegate: ServerExchangeDelegate {}

@Suite struct MetricsScraperTests {
    /// Waits until `condition` holds, at most ten seconds.
    private func eventually(
        _ what: Comment, _ condition: () -> Bool, at location: SourceLocation = #_sourceLocation
    ) async throws {
        let deadline = MonotonicTime.now + .seconds(10)
        while !condition() {
            try #require(MonotonicTime.now < deadline, what, sourceLocation: location)
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    private var fast: ScraperConfiguration {
        var configuration = ScraperConfiguration()
        configuration.interval = .milliseconds(5)
        configuration.idleInterval = .milliseconds(20)
        return configuration
    }

    @Test func followsLoadModelsAndDeathOfAServer() async throws {
        let group = try EventLoopGroup(count: 1, name: "engine")
        let loop = try EventLoop.start(name: "scraper")
        let engine = StubEngine()
        let server = try engine.listen(on: group)
        let address = server.address
        let pool = EndpointPool()
        let registry = MetricsRegistry()
        let scraper = MetricsScraper(pool: pool, on: loop, registry: registry, configuration: fast)
        pool.update([ModelServer(name: "a", address: address)])
        let member = pool.snapshot.members[0]

        engine.waiting.store(7, ordering: .relaxed)
        try await eventually("the load arrives") { member.load.waitingCount == 7 }
        try await eventually("the models arrive") { pool.snapshot.models == ["m"] }

        engine.status.store(404, ordering: .relaxed)
        engine.waiting.store(9, ordering: .relaxed)
        let scrapes = engine.scrapes.load(ordering: .relaxed)
        try await eventually("it is scraped on") {
            engine.scrapes.load(ordering: .relaxed) > scrapes + 3
        }
        #expect(member.isHealthy && member.load.waitingCount == 7)

        await server.drain(within: .zero)
        try await eventually("its death is noticed") { !member.isHealthy }
        engine.status.store(200, ordering: .relaxed)
        let reborn = try engine.listen(on: group, port: address.port)
        try await eventually("its return is noticed") {
            member.isHealthy && member.load.waitingCount == 9
        }

        scraper.stop()
        await reborn.drain(within: .zero)
        loop.shutdown()
        group.shutdown()
    }

    @Test func followsThePool() async throws {
        let group = try EventLoopGroup(count: 1, name: "engine")
        let loop = try EventLoop.start(name: "scraper")
        let engines = [StubEngine(), StubEngine()]
        let servers = try engines.map { try $0.listen(on: group) }
        let pool = EndpointPool()
        let scraper = MetricsScraper(
            pool: pool, on: loop, registry: MetricsRegistry(), configuration: fast)
        let list = servers.enumerated().map {
            ModelServer(name: "e\($0)", address: $1.address)
        }
        pool.update(list)
        for engine in engines {
            try await eventually("both are scraped") {
                engine.scrapes.load(ordering: .relaxed) > 2
            }
        }
        pool.update([list[1]])
        // What is under way when the pool changes may still end.
        let second = engines[1].scrapes.load(ordering: .relaxed)
        try await eventually("the other is scraped on") {
            engines[1].scrapes.load(ordering: .relaxed) > second + 1
        }
        let first = engines[0].scrapes.load(ordering: .relaxed)
        try await eventually("the other is scraped on") {
            engines[1].scrapes.load(ordering: .relaxed) > second + 6
        }
        #expect(engines[0].scrapes.load(ordering: .relaxed) == first)

        scraper.stop()
        for server in servers { await server.drain(within: .zero) }
        loop.shutdown()
        group.shutdown()
    }

    @Test func aRequestWakesTheScrapesOfAnIdleServer() async throws {
        let group = try EventLoopGroup(count: 1, name: "engine")
        let loop = try EventLoop.start(name: "scraper")
        let engine = StubEngine()
        let server = try engine.listen(on: group)
        let pool = EndpointPool()
        var configuration = fast
        configuration.interval = .milliseconds(10)
        configuration.idleInterval = .seconds(60)
        pool.update([ModelServer(name: "a", address: server.address)])
        let member = pool.snapshot.members[0]
        // The first scrape finds something new, each of the next doubles the time until another:
        // 1,280 ms, less a tenth at most, after the eighth.
        let requestedAt = Mutex<MonotonicTime?>(nil)
        let scrapedAt = Mutex<MonotonicTime?>(nil)
        engine.onScrape.withLock { hook in
            hook = { count, loop in
                if count == 9 { scrapedAt.withLock { $0 = .now } }
                guard count == 8 else { return }
                // By then this scrape has ended.
                loop.schedule(after: .milliseconds(100)) {
                    requestedAt.withLock { $0 = .now }
                    member.requestStarted()
                }
            }
        }
        let scraper = MetricsScraper(
            pool: pool, on: loop, registry: MetricsRegistry(), configuration: configuration)
        try await eventually("it is scraped on") {
            engine.scrapes.load(ordering: .relaxed) > 9
        }
        let start = requestedAt.withLock { $0 }
        let end = scrapedAt.withLock { $0 }
        #expect(try #require(end) - #require(start) < .milliseconds(800))

        scraper.stop()
        await server.drain(within: .zero)
        loop.shutdown()
        group.shutdown()
    }

    @Test func anEngineOfAnotherKindIsAskedAtItsPath() async throws {
        let group = try EventLoopGroup(count: 1, name: "engine")
        let loop = try EventLoop.start(name: "scraper")
        let server = try HTTPServer.listen(
            on: group, at: SocketAddress(host: "127.0.0.1", port: 0)
        ) { exchange in
            let isMetrics = exchange.head.path == "/prometheus/metrics"
            let page = isMetrics ? "trtllm_num_requests_waiting{model_name=\"m\"} 3\n" : "[]"
            Array(page.utf8).withUnsafeBytes {
                exchange.respond(HTTPResponseHead(status: 200), body: $0)
            }
            return StubDelegate()
        }
        let pool = EndpointPool()
        let scraper = MetricsScraper(
            pool: pool, on: loop, registry: MetricsRegistry(), configuration: fast)
        pool.update([
            ModelServer(
                name: "a", address: server.address,
                labels: ["llm-d.ai/engine-type": "trtllm-serve"])
        ])
        let member = pool.snapshot.members[0]
        try await eventually("the load arrives") { member.load.waitingCount == 3 }

        scraper.stop()
        await server.drain(within: .zero)
        loop.shutdown()
        group.shutdown()
    }
}
