public import Core
public import FlowControl
public import ModelServers
import Scheduling
import Synchronization
public import Telemetry

/// Decides whether a request goes on, waits or is refused, and when those that wait go on. One for
/// a router; any thread.
///
/// It has no thread of its own. Whoever brings a request, ends one or calls ``tick(now:)`` does
/// what is to be done, under one short lock, and tells those that waited through their tickets. A
/// request that need not wait costs the lock and a look at a saturation that is at most a
/// millisecond old.
public final class FlowController: Sendable {
    /// What becomes of a request.
    enum Admission {
        /// It goes on; a ticket must be given back at its end.
        case passed(FlowTicket?)
        /// The ticket tells how it goes on.
        case waits(FlowTicket)
        case rejected(FlowRejection)
    }

    private typealias Notice = (ticket: FlowTicket, signal: FlowTicket.Signal)

    private struct State {
        var queues: FlowQueues
        var snapshot: PoolSnapshot
        var saturation = PoolSaturation()
        var measuredAt: MonotonicTime?
        /// By slot.
        var tickets: [FlowTicket?] = []
    }

    /// A saturation up to here may be a little old; above it the difference matters.
    private static let calm = 0.5
    private static let maximumAge = Duration.milliseconds(1)

    /// Whether requests wait at all; if not, those that may be shed are, and all others go on.
    public let isEnabled: Bool

    /// Requests that were let through and are at no endpoint yet.
    let unplaced = UnplacedCounter()

    private let configuration: FlowControlConfiguration
    let detector: any SaturationDetector
    private let pool: EndpointPool
    private let metrics: FlowMetrics?
    private let state: Mutex<State>
    private let waitingCount = Atomic<Int>(0)

    /// Makes a controller over a pool. Without `isEnabled` only the configuration's detector
    /// counts, and requests of a priority below 0 are refused while the pool is saturated.
    public init(
        _ configuration: FlowControlConfiguration = FlowControlConfiguration(),
        isEnabled: Bool = false, pool: EndpointPool, registry: MetricsRegistry? = nil,
        poolName: String = "default"
    ) {
        self.configuration = configuration
        self.isEnabled = isEnabled
        self.pool = pool
        detector = configuration.detector
        state = Mutex(
            State(queues: FlowQueues(configuration, now: .now), snapshot: pool.snapshot))
        metrics = isEnabled ? registry.map { FlowMetrics($0, poolName: poolName) } : nil
        if isEnabled, let registry { register(in: registry, poolName: poolName) }
    }

    /// A request has come, of so many bytes.
    func admit(
        _ arrival: SchedulingRequest, byteSize: Int, receivedAt: MonotonicTime, now: MonotonicTime
    ) -> Admission {
        guard isEnabled else {
            guard arrival.priority < 0 else { return .passed(nil) }
            return saturation(now: now).effective >= 1 ? .rejected(.shed) : .passed(nil)
        }
        // The client may have made it up, and it is kept.
        let id = arrival.fairnessID
        let request = FlowRequest(
            fairnessID: id.utf8.count <= 256 ? id : FlowQueues.overflowID,
            priority: arrival.priority, byteSize: byteSize,
            promptTokenCount: arrival.promptTokenCount, receivedAt: receivedAt,
            ttftObjective: arrival.ttftObjective)
        let labels = FlowMetrics.Labels(
            fairnessID: request.fairnessID, priority: request.priority, model: arrival.model)
        var notices: [Notice] = []
        let admission: Admission = state.withLock { state in
            let age = state.measuredAt.map { now - $0 } ?? .seconds(1)
            if age > Self.maximumAge || state.saturation.effective > Self.calm {
                measure(&state, now: now)
            }
            let arrival = state.queues.enqueue(
                request, saturation: state.saturation, now: now)
            switch arrival {
            case .rejected(let rejection): return .rejected(rejection)
            case .dispatched(let id):
                let ticket = issue(id, labels, request, now, &state)
                start(ticket, &state)
                return .passed(ticket)
            case .queued(let id):
                waitingCount.store(state.queues.count, ordering: .relaxed)
                let ticket = issue(id, labels, request, now, &state)
                revoke(&state, now: now, &notices)
                return .waits(ticket)
            }
        }
        tell(notices, now: now)
        metrics?.arrived(labels, admission, took: .now - now)
        return admission
    }

    /// Lets go on what may, and ends what has waited too long. Call it every few milliseconds: it
    /// is what notices new endpoints, loads and the passing of time, and costs next to nothing
    /// while nobody waits.
    public func tick(now: MonotonicTime = .now) {
        guard isEnabled else { return }
        guard waitingCount.load(ordering: .relaxed) > 0 else {
            return state.withLock { $0.queues.collectGarbage(now: now) }
        }
        advance(now: now)
    }

    /// An endpoint has computed a prompt, and may take the next: what waits for that goes on now
    /// and not with the next tick.
    func promptComputed(now: MonotonicTime) {
        guard isEnabled, waitingCount.load(ordering: .relaxed) > 0 else { return }
        advance(now: now)
    }

    private func advance(now: MonotonicTime) {
        var notices: [Notice] = []
        state.withLock { turn(&$0, now: now, &notices) }
        tell(notices, now: now)
    }

    /// Rejects what waits, and from now on whatever would have to wait.
    public func shutdown() {
        guard isEnabled else { return }
        var notices: [Notice] = []
        state.withLock { state in
            while let id = state.queues.drain() {
                retire(id, .shuttingDown, &state, &notices)
            }
            waitingCount.store(0, ordering: .relaxed)
        }
        tell(notices, now: .now)
    }

    /// A request is over.
    func leave(_ ticket: FlowTicket, service: Double?, now: MonotonicTime) {
        var notices: [Notice] = []
        let hadWaited = state.withLock { state in
            state.tickets[Int(ticket.id.slot)] = nil
            let hadWaited = state.queues.leave(ticket.id, service: service, now: now)
            if state.queues.count > 0 { turn(&state, now: now, &notices) }
            waitingCount.store(state.queues.count, ordering: .relaxed)
            return hadWaited
        }
        if hadWaited { metrics?.left(ticket, .contextCancelled, now: now) }
        tell(notices, now: now)
    }

    /// The service that flows got from this router; see
    /// ``FlowControl/FlowQueues/takeAttainedServices(all:at:)``.
    func takeAttainedServices(all: Bool, at now: MonotonicTime) -> [AttainedService] {
        guard isEnabled else { return [] }
        return state.withLock { $0.queues.takeAttainedServices(all: all, at: now) }
    }

    /// The service that flows got from other routers together.
    func setOthersService(_ services: [FlowID: Double], at now: MonotonicTime) {
        guard isEnabled else { return }
        state.withLock { $0.queues.setOthersService(services, at: now) }
    }

    // MARK: - Under the lock

    private func turn(_ state: inout State, now: MonotonicTime, _ notices: inout [Notice]) {
        let began = MonotonicTime.now
        measure(&state, now: now)
        while let (id, rejection) = state.queues.expire(
            now: now, isPoolEmpty: state.saturation.isPoolEmpty)
        {
            retire(id, rejection, &state, &notices)
        }
        while let id = state.queues.dispatch(saturation: state.saturation, now: now) {
            guard let ticket = state.tickets[Int(id.slot)] else { continue }
            start(ticket, &state)
            notices.append((ticket, .dispatched))
        }
        revoke(&state, now: now, &notices)
        state.queues.collectGarbage(now: now)
        waitingCount.store(state.queues.count, ordering: .relaxed)
        metrics?.cycle(took: .now - began)
    }

    private func revoke(_ state: inout State, now: MonotonicTime, _ notices: inout [Notice]) {
        var ids: [FlowRequestID] = []
        state.queues.revoke(saturation: state.saturation, now: now, into: &ids)
        for id in ids {
            guard let ticket = state.tickets[Int(id.slot)] else { continue }
            notices.append((ticket, .rejected(.evicted)))
        }
    }

    private func measure(_ state: inout State, now: MonotonicTime) {
        pool.refresh(&state.snapshot)
        state.saturation = saturation(of: state.snapshot, now: now)
        state.saturation.unplaced = unplaced.value
        state.measuredAt = now
    }

    private func issue(
        _ id: FlowRequestID, _ labels: FlowMetrics.Labels, _ request: FlowRequest,
        _ now: MonotonicTime, _ state: inout State
    ) -> FlowTicket {
        let ticket = FlowTicket(
            id, of: self, labels: labels, enqueuedAt: now,
            isRevocable: configuration.enableEviction && request.priority < 0,
            countsService: state.queues.countsService(of: id),
            use: detector.use(byPromptTokens: request.promptTokenCount))
        let slot = Int(id.slot)
        if slot >= state.tickets.count { state.tickets.append(nil) }
        state.tickets[slot] = ticket
        return ticket
    }

    private func start(_ ticket: FlowTicket, _ state: inout State) {
        ticket.started()
        state.saturation.unplaced.count += 1
        state.saturation.unplaced.used += ticket.use
    }

    /// A request has left the queues for good.
    private func retire(
        _ id: FlowRequestID, _ rejection: FlowRejection, _ state: inout State,
        _ notices: inout [Notice]
    ) {
        guard let ticket = state.tickets[Int(id.slot)] else { return }
        state.tickets[Int(id.slot)] = nil
        _ = ticket.end()
        notices.append((ticket, .rejected(rejection)))
    }

    // MARK: - Outside of the lock

    private func tell(_ notices: [Notice], now: MonotonicTime) {
        for (ticket, signal) in notices {
            switch signal {
            case .dispatched: metrics?.left(ticket, .dispatched, now: now)
            case .rejected(.evicted): break
            case .rejected(let rejection):
                metrics?.left(ticket, .init(ending: rejection), now: now)
            }
            ticket.signal(signal)
        }
    }

    private func saturation(of snapshot: PoolSnapshot, now: MonotonicTime) -> PoolSaturation {
        // Where none is sound, decisions fall back on those that mostly fail.
        let isSound = snapshot.members.contains(where: \.isHealthy)
        var saturation = PoolSaturation()
        for member in snapshot.members where isSound ? member.isHealthy : member.isSuspect {
            saturation.add(EndpointLoad(member), by: detector, at: now)
        }
        return saturation
    }

    /// How full the pool is.
    func saturation(now: MonotonicTime) -> PoolSaturation {
        saturation(of: pool.snapshot, now: now)
    }

    /// Reads something of the queues.
    func withQueues<Result: Sendable>(_ body: (FlowQueues) -> Result) -> Result {
        state.withLock { body($0.queues) }
    }
}

/// Counts ``UnplacedUse`` up and down. Any thread.
final class UnplacedCounter: Sendable {
    private let count = Atomic<Int>(0)
    /// In millionths, rounded up.
    private let used = Atomic<Int>(0)

    /// The two parts may be of different moments.
    var value: UnplacedUse {
        UnplacedUse(
            count: max(0, count.load(ordering: .relaxed)),
            used: Double(max(0, used.load(ordering: .relaxed))) / 1e6)
    }

    func add(_ use: Double) {
        count.wrappingAdd(1, ordering: .relaxed)
        used.wrappingAdd(Self.millionths(use), ordering: .relaxed)
    }

    func subtract(_ use: Double) {
        count.wrappingSubtract(1, ordering: .relaxed)
        used.wrappingSubtract(Self.millionths(use), ordering: .relaxed)
    }

    private static func millionths(_ use: Double) -> Int {
        Int((min(use, 1e9) * 1e6).rounded(.up))
    }
}

extension EndpointLoad {
    fileprivate init(_ member: PoolMember) {
        self.init(
            takesPrefill: member.endpoint.takesPrefill, takesDecode: member.endpoint.takesDecode)
        let load = member.load
        waitingCount = load.waitingCount
        runningCount = load.runningCount
        kvUsage = load.kvUsage
        scrapedAt = load.scrapedAt
        inFlightCount = member.knownInFlightCount
        inFlightTokens = member.knownPrefillTokens
        // Of the prompts of others only the tokens are known: they are taken to be as long as ours.
        let own = member.prefillTokensInFlight
        inFlightPrompts =
            own > 0 ? member.prefillsInFlightCount * inFlightTokens / own : inFlightCount
    }
}
