import Core
import Net
import Telemetry

/// Scrapes one server. Belongs to a loop.
final class MemberScraper {
    private let member: PoolMember
    private let pool: EndpointPool
    private let loop: EventLoop
    private let configuration: ScraperConfiguration
    private let counters: ScrapeCounters
    private let loadReader: EngineLoadReader
    private let metricsReader: PageReader
    private let modelsPage = PageBytes()
    private let modelsReader: PageReader
    private var pacing: ScrapePacing
    private var timer: Timer?
    private var startedAt = MonotonicTime.now
    private var lastLoad: ServerLoad?
    private var modelsAskedAt: MonotonicTime?

    /// Scrapes at once.
    init(
        _ member: PoolMember, of pool: EndpointPool, by client: HTTPClient,
        _ configuration: ScraperConfiguration, _ counters: ScrapeCounters
    ) {
        self.member = member
        self.pool = pool
        self.configuration = configuration
        self.counters = counters
        loop = client.loop
        let server = member.endpoint.server
        let engine = configuration.engines.metrics(of: server)
        loadReader = EngineLoadReader(engine)
        metricsReader = PageReader(
            path: engine.path, of: server.metricsAddress, by: client,
            timeout: configuration.timeout, maximumBytes: configuration.maximumPageBytes,
            into: loadReader)
        modelsReader = PageReader(
            path: "/v1/models", of: server.address, by: client, timeout: configuration.timeout,
            maximumBytes: configuration.maximumPageBytes, into: modelsPage)
        pacing = ScrapePacing(busy: configuration.interval, idle: configuration.idleInterval)
        scrape()
    }

    func stop() {
        timer?.cancel()
        metricsReader.cancel()
        modelsReader.cancel()
    }

    /// Scrapes now if the server was left alone for want of requests, and has some.
    func wakeIfRequestsRun() {
        guard pacing.isResting, member.isHealthy, member.inFlightCount > 0,
            !metricsReader.isFetching
        else { return }
        timer?.cancel()
        scrape()
    }

    private func scrape() {
        startedAt = .now
        metricsReader.fetch { [weak self] result in self?.scraped(result) }
    }

    private func scraped(_ result: Result<Int, NetError>) {
        let now = MonotonicTime.now
        counters.scrapes.increment()
        var isActive = member.inFlightCount > 0
        if let outcome = outcome(of: result) {
            member.scraped(outcome, at: now)
            if case .load(let load) = outcome {
                isActive = isActive || load != lastLoad || load.runningCount + load.waitingCount > 0
                lastLoad = load
                askForModels(at: now)
            } else {
                counters.errors.increment()
            }
        }
        // Servers that started together are not to be asked in step for ever; and one that takes
        // long is not to be asked without a pause.
        let interval = pacing.interval(isActive: isActive) * Double.random(in: 0.9...1.1)
        let wait = max(interval - (now - startedAt), interval / 4)
        timer = loop.schedule(after: wait) { [weak self] in self?.scrape() }
    }

    /// Nil if the failure says nothing of the server.
    private func outcome(of result: Result<Int, NetError>) -> ScrapeOutcome? {
        switch result {
        case .success(200):
            if let load = try? loadReader.finish() { return .load(load) }
            return .unreadable
        case .success, .failure(.bodyTooLarge): return .unreadable
        case .failure(.timeout(.connect)): return .failedToConnect
        case .failure(.timeout): return .timedOut
        case .failure(.cancelled), .failure(.poolExhausted), .failure(.tooManyFiles): return nil
        case .failure: return .failedToConnect
        }
    }

    private func askForModels(at now: MonotonicTime) {
        if let modelsAskedAt, now - modelsAskedAt < configuration.modelsInterval { return }
        modelsAskedAt = now
        modelsReader.fetch { [weak self] result in
            guard let self, case .success(200) = result,
                let models = EnginePage.models(from: modelsPage.bytes)
            else { return }
            pool.setModels(models, of: member)
        }
    }
}
