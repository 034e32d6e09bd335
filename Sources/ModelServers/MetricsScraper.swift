public import Core
public import Net
public import Telemetry

/// How model servers are asked for their load.
public struct ScraperConfiguration: Sendable {
    /// The time between two scrapes of a server that works.
    public var interval = Duration.milliseconds(200)
    /// The longest time: between two scrapes of a server that is idle or out of use. The same as
    /// `interval`: the rate does not adapt.
    public var idleInterval = Duration.seconds(1)
    /// How long a server may take to answer.
    public var timeout = Duration.seconds(1)
    /// How often a server is asked which models it has.
    public var modelsInterval = Duration.seconds(10)
    /// The longest answer to accept.
    public var maximumPageBytes = 8 << 20
    /// What the engines call their metrics.
    public var engines = EngineMetricsTable()

    /// The defaults.
    public init() {}
}

/// Keeps load, health and models of a pool's members up to date by asking them, on one loop.
///
/// A server is asked often while requests run there or its figures change, and ever less often
/// while neither happens; the first request to a server that rests has it asked soon.
public final class MetricsScraper: Sendable {
    private let loop: EventLoop
    private let state: LoopBound<State>

    /// What belongs to the loop.
    private final class State {
        let client: HTTPClient
        let configuration: ScraperConfiguration
        let pool: EndpointPool
        let counters: ScrapeCounters
        var members: [UInt32: MemberScraper] = [:]
        var watch: Timer?
        var isStopped = false

        init(
            client: HTTPClient, configuration: ScraperConfiguration, pool: EndpointPool,
            counters: ScrapeCounters
        ) {
            self.client = client
            self.configuration = configuration
            self.pool = pool
            self.counters = counters
        }
    }

    /// Starts to scrape. Any thread.
    public init(
        pool: EndpointPool, on loop: EventLoop, registry: MetricsRegistry,
        configuration: ScraperConfiguration = ScraperConfiguration()
    ) {
        self.loop = loop
        var clientConfiguration = HTTPClientConfiguration()
        clientConfiguration.connectTimeout = configuration.timeout
        clientConfiguration.maximumConnectionsPerHost = 2
        clientConfiguration.maximumIdlePerHost = 1
        let state = LoopBound(
            State(
                client: HTTPClient(on: loop, configuration: clientConfiguration),
                configuration: configuration, pool: pool, counters: ScrapeCounters(registry)))
        self.state = state
        loop.execute { Self.watchForRequests(state.value) }
        pool.observe { _, after in
            loop.execute { Self.follow(after, state.value) }
        }
    }

    /// Stops for good. Any thread.
    public func stop() {
        loop.execute { [state] in
            let state = state.value
            state.isStopped = true
            state.watch?.cancel()
            for member in state.members.values { member.stop() }
            state.members = [:]
            state.client.shutdown()
        }
    }

    private static func watchForRequests(_ state: State) {
        guard state.configuration.idleInterval > state.configuration.interval else { return }
        state.watch = state.client.loop.schedule(every: state.configuration.interval) {
            for member in state.members.values { member.wakeIfRequestsRun() }
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
                    member, of: state.pool, by: state.client, state.configuration, state.counters)
        }
        for gone in state.members.values { gone.stop() }
        state.members = members
    }
}

/// What is counted of scrapes.
struct ScrapeCounters {
    /// All.
    let scrapes: Counter
    /// Those that failed.
    let errors: Counter

    init(_ registry: MetricsRegistry) {
        scrapes = registry.counter(
            "llmd_scrapes_total", "Scrapes of model servers that have ended, one way or another.")
        errors = registry.counters(
            "llm_d_epp_datalayer_poll_errors_total", "Scrapes of model servers that failed.",
            labels: ["source_type"]
        ).child("metrics-data-source")
    }
}

/// A reference that only one loop follows.
// Sendable: every access is in a closure that the loop runs.
private final class LoopBound<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}
