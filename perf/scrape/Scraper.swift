import Core
import Foundation
import ModelServers
import Net
import PerfSupport
import Synchronization
import Telemetry

/// The role of this program that scrapes as the router does and looks at every load that comes.
enum Scraper {
    static func run(_ ports: [UInt16], interval: Duration, duration: Duration) throws {
        let pool = EndpointPool()
        let registry = MetricsRegistry()
        var configuration = ScraperConfiguration()
        configuration.interval = interval
        configuration.idleInterval = interval
        let loop = try EventLoop.start(name: "pool")
        _ = MetricsScraper(pool: pool, on: loop, registry: registry, configuration: configuration)
        pool.update(
            ports.map {
                ModelServer(name: "e\($0)", address: SocketAddress(host: "127.0.0.1", port: $0))
            })
        let checker = LoadChecker(pool, interval: interval)
        loop.execute { loop.schedule(every: interval) { checker.check() } }
        FileHandle.standardOutput.write(Data("ready\n".utf8))
        while readLine() != nil {
            usleep(UInt32(duration / .microseconds(1)))
            if let problem = checker.problem { throw PerfError(problem) }
            FileHandle.standardOutput.write(Data("done\n".utf8))
        }
    }
}

/// Looks at the load of every member as often as it is scraped.
private final class LoadChecker: Sendable {
    private let pool: EndpointPool
    private let maximumAge: Duration
    private let state = Mutex((checks: 0, problem: String?.none))

    init(_ pool: EndpointPool, interval: Duration) {
        self.pool = pool
        maximumAge = interval * 20
    }

    var problem: String? {
        state.withLock { $0.checks == 0 ? "nothing was scraped" : $0.problem }
    }

    func check() {
        let now = MonotonicTime.now
        for member in pool.snapshot.members {
            let load = member.load
            // Before its first scrape.
            guard let scrapedAt = load.scrapedAt else { continue }
            let figures = EnginePages.Figures(load.waitingCount)
            let isRight =
                load.runningCount == figures.running && load.kvUsage == figures.kvUsage
                && load.blockSize == 32 && load.blockCount == 16384
                && load.lora?.maximumCount == 2 && load.lora?.running == []
                && now - scrapedAt < maximumAge
            state.withLock { state in
                state.checks += 1
                if !isRight, state.problem == nil {
                    state.problem = "\(member.endpoint.address) has \(load)"
                }
            }
        }
    }
}
