import Core
public import Net
public import Telemetry

/// How model servers are asked for their load.
public struct ScraperConfiguration: Sendable {
    /// The wait between two scrapes of a server that works.
    public var interval = Duration.milliseconds(200)
    /// The longest wait: between two scrapes of a server that is idle or out of use.
    public var idleInterval = Duration.seconds(1)
    /// How long a server may take to answer.
    public var timeout = Duration.seconds(1)
    /// How often a server is asked which models it has.
    public var modelsInterval = Duration.seconds(10)
    /// The longest answer to accept.
    public var maximumPageBytes = 8 << 20
    /// Figures that become attributes of endpoints.
    public var metrics: [ScrapedMetric] = []

    /// The defaults.
    public init() {}
}

/// Keeps load, health and models of a pool's members up to date by asking them, on one loop.
public final class MetricsScraper: Sendable {
    private let loop: EventLoop
    private let state: LoopBound<State>

    /// What belongs to the loop.
    private final class State {
        let client: HTTPClient
        let configuration: ScraperConfiguration
        let pool: EndpointPool
        let errors: Family<Counter>
        let scrapes: Counter
        var members: [UInt32: MemberScraper] = [:]
        var isStopped = false

        init(
            client: HTTPClient, configuration: ScraperConfiguration, pool: EndpointPool,
            errors: Family<Counter>, scrapes: Counter
        ) {
            self.scrapes = scrapes
            self.client = client
            self.configuration = configuration
            self.pool = pool
            self.errors = errors
        }
    }

    /// Starts to scrape. Any thread.
    public init(
        pool: EndpointPool, on loop: EventLoop, registry: MetricsRegistry,
        configuration: ScraperConfiguration = ScraperConfiguration()
    ) {
        self.loop = loop
        let errors = registry.counters(
            "llm_d_epp_datalayer_poll_errors_total", "Scrapes of model servers that failed.",
            labels: ["source_type"])
        let scrapes = registry.counter(
            "llmd_scrapes_total", "Scrapes of model servers that have ended.")
        var clientConfiguration = HTTPClientConfiguration()
        clientConfiguration.connectTimeout = configuration.timeout
        clientConfiguration.maximumConnectionsPerHost = 2
        clientConfiguration.maximumIdlePerHost = 1
        let state = LoopBound(
            State(
                client: HTTPClient(on: loop, configuration: clientConfiguration),
                configuration: configuration, pool: pool, errors: errors,
                scrapes: scrapes))
        self.state = state
        pool.observe { _, after in
            loop.execute { Self.follow(after, state.value) }
        }
    }

    /// Stops for good. Any thread.
    public func stop() {
        loop.execute { [state] in
            let state = state.value
            state.isStopped = true
            for member in state.members.values { member.stop() }
            state.members = [:]
            state.client.shutdown()
        }
    }

    private static func follow(_ snapshot: PoolSnapshot, _ state: State) {
        guard !state.isStopped else { return }
        var members: [UInt32: MemberScraper] = [:]
        for member in snapshot.members {
            let id = member.endpoint.id
            members[id] =
                state.members.removeValue(forKey: id)
                ?? MemberScraper(
                    member, of: state.pool, by: state.client, state.configuration, state.errors,
                    state.scrapes)
        }
        for gone in state.members.values { gone.stop() }
        state.members = members
    }
}

/// A reference that only one loop follows.
// Sendable: every access is in a closure that the loop runs.
private final class LoopBound<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}

/// Scrapes one server. Belongs to a loop.
private final class MemberScraper {
    private let member: PoolMember
    private let pool: EndpointPool
    private let loop: EventLoop
    private let configuration: ScraperConfiguration
    private let errors: Family<Counter>
    private let scrapes: Counter
    private let metricsReader: PageReader
    private let modelsReader: PageReader
    private var pacing: ScrapePacing
    private var timer: Timer?
    private var lastLoad: ServerLoad?
    private var modelsAskedAt: MonotonicTime?

    init(
        _ member: PoolMember, of pool: EndpointPool, by client: HTTPClient,
        _ configuration: ScraperConfiguration, _ errors: Family<Counter>, _ scrapes: Counter
    ) {
        self.scrapes = scrapes
        self.member = member
        self.pool = pool
        self.configuration = configuration
        self.errors = errors
        loop = client.loop
        let server = member.endpoint.server
        metricsReader = PageReader(
            path: "/metrics", of: server.metricsAddress, by: client,
            timeout: configuration.timeout, maximumBytes: configuration.maximumPageBytes)
        modelsReader = PageReader(
            path: "/v1/models", of: server.address, by: client, timeout: configuration.timeout,
            maximumBytes: configuration.maximumPageBytes)
        pacing = ScrapePacing(busy: configuration.interval, idle: configuration.idleInterval)
        scrape()
    }

    func stop() {
        timer?.cancel()
        metricsReader.cancel()
        modelsReader.cancel()
    }

    private func scrape() {
        metricsReader.fetch { [weak self] result in self?.scraped(result) }
    }

    private func scraped(_ result: Result<Int, NetError>) {
        let now = MonotonicTime.now
        var isActive = member.inFlightCount > 0
        scrapes.increment()
        if let outcome = outcome(of: result) {
            member.scraped(outcome, at: now)
            if case .load(let load) = outcome {
                isActive = isActive || load != lastLoad || load.runningCount + load.waitingCount > 0
                lastLoad = load
                askForModels(at: now)
            } else {
                errors.child("metrics-data-source").increment()
            }
        }
        // Servers that started together are not to be asked in step for ever.
        let wait = pacing.wait(isActive: isActive) * Double.random(in: 0.9...1.1)
        timer = loop.schedule(after: wait) { [weak self] in self?.scrape() }
    }

    /// Nil if the failure says nothing of the server.
    private func outcome(of result: Result<Int, NetError>) -> ScrapeOutcome? {
        switch result {
        case .success(200):
            if let load = try? EnginePage.load(
                from: metricsReader.page, metrics: configuration.metrics)
            {
                return .load(load)
            }
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
                let models = EnginePage.models(from: modelsReader.page)
            else { return }
            pool.setModels(models, of: member)
        }
    }
}
