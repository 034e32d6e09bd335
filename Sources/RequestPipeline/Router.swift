public import Core
public import ModelServers
public import Replay
public import Scheduling
import Synchronization
public import Telemetry

/// What can be set about a router.
public struct RouterConfiguration: Sendable {
    /// The longest request body; a longer one is refused with 413.
    public var maximumBodyBytes = 32 << 20
    /// The models that may be asked for; empty: those that the engines list.
    public var models: [String] = []
    /// How long an engine may take to tell the token ids of a prompt. The request goes on
    /// without prefix matching after that.
    public var tokenizeTimeout = Duration.seconds(5)
    /// How many endpoints a request tries that cannot be connected to.
    public var maximumAttempts = 4
    /// Whether decisions carry their scores.
    public var recordsScores = false
    /// Determines every random choice; each run has its own if it is nil.
    public var seed: UInt64?

    /// The defaults.
    public init() {}
}

/// What all requests share: configuration, pool, plugins, metrics. Any thread.
public final class Router: Sendable {
    /// Where requests can go.
    public let pool: EndpointPool
    /// Who decides.
    public let scheduler: Scheduler
    /// Who goes on, waits or is refused.
    public let flow: FlowController
    /// What can be set.
    public let configuration: RouterConfiguration
    /// What the router shows on `/metrics`.
    public let metrics: RouterMetrics
    /// Where the spans of decisions go.
    public let spans: any SpanHook
    /// Who records decisions; nil: nobody does.
    public let recorder: DecisionRecorder?

    /// Idle desks. A decision takes one, so there are as many as loops that decide at once.
    private let desks = Mutex<[Desk]>([])
    private let seeds: Mutex<RandomSource>

    /// Makes a router over a pool; without `flow` nothing waits.
    public init(
        pool: EndpointPool, scheduler: Scheduler, metrics: RouterMetrics,
        flow: FlowController? = nil,
        configuration: RouterConfiguration = RouterConfiguration(),
        spans: any SpanHook = NoSpans(), recorder: DecisionRecorder? = nil
    ) {
        self.pool = pool
        self.scheduler = scheduler
        self.configuration = configuration
        self.metrics = metrics
        self.flow = flow ?? FlowController(pool: pool)
        self.spans = spans
        self.recorder = recorder
        var system = SystemRandomNumberGenerator()
        seeds = Mutex(RandomSource(seed: configuration.seed ?? system.next()))
    }

    /// The endpoint of the pool at an address.
    public func endpoint(at address: SocketAddress) -> Endpoint? {
        pool.snapshot.member(at: address)?.endpoint
    }

    /// Runs `body` with a desk that is no one else's meanwhile.
    func withDesk<Result, Failure>(
        _ body: (Desk) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let desk =
            desks.withLock { $0.popLast() }
            ?? Desk(snapshot: pool.snapshot, seed: seeds.withLock { $0.next() })
        defer { desks.withLock { $0.append(desk) } }
        pool.refresh(&desk.snapshot)
        desk.traffic.follow(desk.snapshot)
        return try body(desk)
    }
}

/// The buffers of one decision at a time.
// Sendable: a desk is in the router's list of idle ones, or in the hands of one `withDesk`.
final class Desk: @unchecked Sendable {
    var snapshot: PoolSnapshot
    var traffic: TrafficDesk
    var cycle: SchedulingCycle

    init(snapshot: PoolSnapshot, seed: UInt64) {
        self.snapshot = snapshot
        traffic = TrafficDesk(seed: ~seed)
        cycle = SchedulingCycle(
            request: SchedulingRequest(id: "", model: "", headers: NoHeaders()), seed: seed)
    }

    /// Puts a request and the state of the pool on the desk.
    func lay(
        _ request: SchedulingRequest, at now: MonotonicTime, isEligible: (PoolMember) -> Bool
    ) {
        cycle.lay(request, over: snapshot, isEligible: isEligible)
        cycle.context.now = now
        cycle.context.levelStaleLoads(at: now)
    }

    /// Lets go of the request, whose prompt may be long.
    func clear() {
        cycle.context.request = SchedulingRequest(id: "", model: "", headers: NoHeaders())
    }
}

extension SchedulingCycle {
    fileprivate mutating func lay(
        _ request: SchedulingRequest, over snapshot: PoolSnapshot,
        isEligible: (PoolMember) -> Bool
    ) {
        context.request = request
        context.endpoints = snapshot.endpoints
        context.poolGeneration = snapshot.generation
        context.loads.removeAll(keepingCapacity: true)
        context.inFlight.removeAll(keepingCapacity: true)
        context.othersInFlight.removeAll(keepingCapacity: true)
        context.prefillTokensInFlight.removeAll(keepingCapacity: true)
        eligible.removeAll(keepingCapacity: true)
        for (index, member) in snapshot.members.enumerated() {
            context.loads.append(member.load)
            context.inFlight.append(member.knownInFlightCount)
            context.othersInFlight.append(member.othersInFlightCount)
            context.prefillTokensInFlight.append(member.knownPrefillTokens)
            if member.isHealthy, isEligible(member) { eligible.append(index) }
        }
        guard eligible.isEmpty else { return }
        eligible += snapshot.members.indices.filter {
            snapshot.members[$0].isSuspect && isEligible(snapshot.members[$0])
        }
    }
}

private struct NoHeaders: HeaderLookup {
    func value(ofHeader name: String) -> String? { nil }
}
