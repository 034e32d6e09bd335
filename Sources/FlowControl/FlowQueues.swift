public import Core

/// The requests that wait for a place in the pool, and those that are there. Sans-I/O: no clock,
/// no lock; deterministic. Belongs to one thread at a time.
///
/// Every request that ``enqueue(_:saturation:now:)`` takes leaves once: it is handed out by
/// ``dispatch(saturation:now:)``, ``expire(now:isPoolEmpty:)`` or ``drain()``, or is taken back by
/// ``leave(_:service:now:)``. One that was dispatched is given back by `leave`, too.
///
/// Bands are strict: none is looked at while a higher one waits. All operations take O(log n) of
/// the waiting requests, except that the least attained service looks at every flow of its band
/// that waits, of which there are at most ``maximumFlows``.
public struct FlowQueues: Sendable {
    /// Flows that are told apart; the fairness ids of further ones share a flow in each band.
    public static let maximumFlows = 4096
    /// The fairness id of the shared flows.
    public static let overflowID = "other"

    private static let flowLifetime = Duration.seconds(300)
    private static let bandLifetime = Duration.seconds(600)
    private static let collectionInterval = Duration.seconds(10)

    enum SlotState: Sendable {
        case free
        case queued
        case inFlight
        /// In flight, and told to stop.
        case revoked
    }

    struct Slot: Sendable {
        var state = SlotState.free
        var generation: UInt32 = 0
        var flow: Int32 = 0
        var byteCount = 0
        var promptTokenCount = 0
        var enqueuedAt = MonotonicTime(nanoseconds: 0)
    }

    let configuration: FlowControlConfiguration
    var slots: [Slot] = []
    private var freeSlots: [Int32] = []
    var flows: [Flow] = []
    private var freeFlows: [Int32] = []
    var flowIndex: [FlowID: Int32] = [:]
    /// By descending priority.
    var bands: [FlowBand] = []
    private var sequence: UInt64 = 0
    private var isShutDown = false
    private var collectedAt: MonotonicTime?

    /// Where a slot is in its flow's queue or among the sheddable requests in flight.
    var slotPositions: [Int32] = []
    private var deadlines = IndexedHeap()
    private var deadlinePositions: [Int32] = []
    private var flowPositions: [Int32] = []

    var evictions = Evictions()
    /// What is shared with other routers; nil while nobody asks.
    var sharing: ServiceSharing?

    /// The requests that wait.
    public private(set) var count = 0
    /// The bytes that they hold.
    public private(set) var byteCount = 0

    /// Makes empty queues.
    public init(_ configuration: FlowControlConfiguration, now: MonotonicTime) {
        self.configuration = configuration
        for (priority, band) in configuration.bands {
            bands.append(FlowBand(priority: priority, band, isConfigured: true, now: now))
        }
        bands.sort { $0.priority > $1.priority }
    }

    // MARK: - In

    /// A request arrives. It goes on at once if nobody of its priority or a higher one waits and
    /// its band is open.
    public mutating func enqueue(
        _ request: FlowRequest, saturation: PoolSaturation, now: MonotonicTime
    ) -> FlowArrival {
        let rank = band(of: request.priority, now: now)
        bands[rank].usedAt = now
        if !bands[...rank].contains(where: { $0.requestCount > 0 }),
            opens(rank, at: saturation)
        {
            let flow = flow(of: request, rank: rank, now: now)
            let slot = take(flow, request, now: now)
            start(slot, rank: rank, now: now)
            return .dispatched(id(of: slot))
        }
        guard !isShutDown else { return .rejected(.shuttingDown) }
        guard hasRoom(for: request, in: bands[rank]) else {
            return .rejected(.capacity(noEndpoints: saturation.isPoolEmpty))
        }
        let flow = flow(of: request, rank: rank, now: now)
        let slot = take(flow, request, now: now)
        let timeToLive =
            request.timeToLive
            ?? (saturation.isPoolEmpty ? configuration.noEndpointRequestTTL : nil)
            ?? configuration.defaultRequestTTL
        let deadline = now + timeToLive
        sequence += 1
        slots[Int(slot)].state = .queued
        flows[Int(flow)].queue.insert(
            IndexedHeap.Item(
                key: key(of: request, in: bands[rank], deadline: deadline, now: now),
                sequence: sequence, id: slot), &slotPositions)
        deadlines.insert(
            IndexedHeap.Item(key: deadline.nanoseconds, sequence: sequence, id: slot),
            &deadlinePositions)
        flows[Int(flow)].byteCount += request.byteSize
        bands[rank].requestCount += 1
        bands[rank].byteCount += request.byteSize
        count += 1
        byteCount += request.byteSize
        headChanged(flow, rank: rank, isNew: flows[Int(flow)].queue.count == 1, wasServed: false)
        return .queued(id(of: slot))
    }

    // MARK: - Out

    /// Hands out the next request that may go on; nil if none may. A band that is closed holds up
    /// the lower ones.
    public mutating func dispatch(
        saturation: PoolSaturation, now: MonotonicTime
    ) -> FlowRequestID? {
        guard count > 0, let rank = bands.firstIndex(where: { $0.requestCount > 0 }),
            opens(rank, at: saturation)
        else { return nil }
        let flow = nextFlow(of: rank, now: now)
        guard let head = flows[Int(flow)].queue.first else { return nil }
        remove(head.id, rank: rank, wasServed: true)
        bands[rank].usedAt = now
        start(head.id, rank: rank, now: now)
        return id(of: head.id)
    }

    /// Hands out a request whose time to live is over; nil if there is none.
    public mutating func expire(
        now: MonotonicTime, isPoolEmpty: Bool
    ) -> (id: FlowRequestID, rejection: FlowRejection)? {
        guard let first = deadlines.first, first.key <= now.nanoseconds else { return nil }
        return (removeForGood(first.id), .expired(noEndpoints: isPoolEmpty))
    }

    /// When the next time to live ends.
    public var nextDeadline: MonotonicTime? {
        deadlines.first.map { MonotonicTime(nanoseconds: $0.key) }
    }

    /// From now on nothing is queued; what waits is handed out, one by one, to be rejected as
    /// `shuttingDown`. Nil once nothing waits.
    public mutating func drain() -> FlowRequestID? {
        isShutDown = true
        return deadlines.first.map { removeForGood($0.id) }
    }

    /// A request is over: it waited and its client went away, or it was served, or it is stopped.
    /// `service` is what it cost in tokens, if that is known: ``LeastAttainedService``.
    ///
    /// - Returns: True if it had waited until now. False if it was in flight, or is none of the
    ///   queue's any more.
    @discardableResult
    public mutating func leave(
        _ id: FlowRequestID, service: Double? = nil, now: MonotonicTime
    ) -> Bool {
        let index = Int(id.slot)
        guard slots[index].generation == id.generation else { return false }
        switch slots[index].state {
        case .free: return false
        case .queued:
            _ = removeForGood(id.slot)
            return true
        case .inFlight, .revoked:
            evictions.left(
                id, isRevoked: slots[index].state == .revoked,
                isCandidate: configuration.enableEviction && priority(of: id) < 0,
                &slotPositions)
            let flow = Int(slots[index].flow)
            flows[flow].inFlightCount -= 1
            flows[flow].usedAt = now
            let rank = band(of: flows[flow].key.priority, now: now)
            bands[rank].usedAt = now
            if let service { charge(flow, rank, service - charged(slots[index]), now: now) }
            release(id.slot)
            return false
        }
    }

    // MARK: - What there is

    /// The fairness id of the flow that a request is in, and its priority.
    public func flow(of id: FlowRequestID) -> (fairnessID: String, priority: Int) {
        let key = flows[Int(slots[Int(id.slot)].flow)].key
        return (key.fairnessID, key.priority)
    }

    /// When a request was taken.
    public func enqueuedAt(_ id: FlowRequestID) -> MonotonicTime {
        slots[Int(id.slot)].enqueuedAt
    }

    /// Whether the band of a request wants to know what it cost.
    public func countsService(of id: FlowRequestID) -> Bool {
        let priority = flow(of: id).priority
        guard
            case .leastAttained? = bands.first(where: { $0.priority == priority })?
                .configuration.fairness
        else { return false }
        return true
    }

    /// Every flow with what waits in it.
    public var flowSizes: [(fairnessID: String, priority: Int, count: Int, byteCount: Int)] {
        flowIndex.values.map { index in
            let flow = flows[Int(index)]
            return (flow.key.fairnessID, flow.key.priority, flow.queue.count, flow.byteCount)
        }
    }

    /// Every band with the part of its capacity that is used, 0 to 1.
    public var bandUses: [(priority: Int, requests: Double, bytes: Double)] {
        bands.map {
            (
                $0.priority, Double($0.requestCount) / Double($0.configuration.maxRequests),
                Double($0.byteCount) / Double($0.configuration.maxBytes)
            )
        }
    }

    /// The part of the capacity of all bands together that is used, 0 to 1.
    public var globalUse: (requests: Double, bytes: Double) {
        (
            Double(count) / Double(configuration.globalRequestLimit),
            Double(byteCount) / Double(configuration.globalByteLimit)
        )
    }

    // MARK: - Bands and flows

    private func hasRoom(for request: FlowRequest, in band: FlowBand) -> Bool {
        band.requestCount < band.configuration.maxRequests
            && band.byteCount + request.byteSize <= band.configuration.maxBytes
            && count < configuration.globalRequestLimit
            && byteCount + request.byteSize <= configuration.globalByteLimit
    }

    private func key(
        of request: FlowRequest, in band: FlowBand, deadline: MonotonicTime, now: MonotonicTime
    ) -> UInt64 {
        switch band.configuration.ordering {
        case .firstComeFirstServed: now.nanoseconds
        case .earliestDeadlineFirst: deadline.nanoseconds
        case .sloDeadline:
            request.ttftObjective.map { (request.receivedAt + $0).nanoseconds } ?? .max
        }
    }

    /// The rank of a priority's band, which is made if there is none.
    private mutating func band(of priority: Int, now: MonotonicTime) -> Int {
        let rank = bands.firstIndex { $0.priority <= priority } ?? bands.count
        guard rank == bands.count || bands[rank].priority != priority else { return rank }
        let template =
            priority < 0 ? configuration.defaultNegativeBand : configuration.defaultBand
        bands.insert(
            FlowBand(priority: priority, template, isConfigured: false, now: now), at: rank)
        return rank
    }

    private mutating func flow(
        of request: FlowRequest, rank: Int, now: MonotonicTime
    ) -> Int32 {
        var key = FlowID(fairnessID: request.fairnessID, priority: request.priority)
        if let flow = flowIndex[key] { return flow }
        if flowIndex.count >= Self.maximumFlows {
            key.fairnessID = Self.overflowID
            if let flow = flowIndex[key] { return flow }
        }
        var flow = Flow(key: key, usedAt: now)
        flow.othersService = othersService(of: key, rank: rank, at: now)
        let index: Int32
        if let free = freeFlows.popLast() {
            index = free
            flows[Int(free)] = flow
        } else {
            index = Int32(flows.count)
            flows.append(flow)
            flowPositions.append(0)
        }
        flowIndex[key] = index
        bands[rank].flowCount += 1
        return index
    }

    /// Whether a band may be served now.
    private mutating func opens(_ rank: Int, at saturation: PoolSaturation) -> Bool {
        guard !saturation.isPoolEmpty else { return false }
        let level = saturation.effective
        if level < ceiling(of: rank, at: level) {
            bands[rank].closedCalls = 0
            return true
        }
        guard configuration.usageLimit == .softReflective, level < 1 else { return false }
        bands[rank].closedCalls += 1
        let period = (level / (1 - level)).rounded()
        guard Double(bands[rank].closedCalls) >= period else { return false }
        bands[rank].closedCalls = 0
        return true
    }

    func ceiling(of rank: Int, at level: Double) -> Double {
        configuration.usageLimit.ceiling(
            rank: rank, priority: bands[rank].priority, count: bands.count,
            highest: bands[0].priority, lowest: bands[bands.count - 1].priority,
            saturation: level)
    }

    /// The flow of a band that is to be served; the band has one that waits.
    private mutating func nextFlow(of rank: Int, now: MonotonicTime) -> Int32 {
        let waiting = bands[rank].waiting.items
        guard case .leastAttained(let policy) = bands[rank].configuration.fairness else {
            return waiting[0].id
        }
        var greatestService = 0.0
        var greatestAge = 0.0
        for item in waiting {
            greatestService = max(greatestService, flows[Int(item.id)].allService)
            greatestAge = max(greatestAge, headAge(of: item.id, now: now))
        }
        var best = waiting[0]
        var bestScore = -Double.infinity
        for item in waiting {
            let service =
                greatestService > 0 ? flows[Int(item.id)].allService / greatestService : 0
            let age = greatestAge > 0 ? headAge(of: item.id, now: now) / greatestAge : 0
            let score = policy.weightService * (1 - service) + policy.weightHeadWait * age
            // Who has waited for a turn longer, if they are equal.
            if score > bestScore || (score == bestScore && item.precedes(best)) {
                best = item
                bestScore = score
            }
        }
        return best.id
    }

    private func headAge(of flow: Int32, now: MonotonicTime) -> Double {
        guard let head = flows[Int(flow)].queue.first else { return 0 }
        return (now - slots[Int(head.id)].enqueuedAt).seconds
    }

    /// The first request of a flow is another, or there is none any more.
    private mutating func headChanged(
        _ flow: Int32, rank: Int, isNew: Bool, wasServed: Bool
    ) {
        guard let head = flows[Int(flow)].queue.first else {
            bands[rank].waiting.remove(flow, &flowPositions)
            return
        }
        if isNew {
            let item = bands[rank].place(flow, head: head)
            bands[rank].waiting.insert(item, &flowPositions)
        } else if wasServed || bands[rank].configuration.fairness == .globalStrict {
            let item = bands[rank].place(flow, head: head)
            bands[rank].waiting.update(item, &flowPositions)
        }
    }

    private func charged(_ slot: Slot) -> Double {
        LeastAttainedService.service(inputTokens: slot.promptTokenCount, outputTokens: 0)
    }

    private mutating func charge(
        _ flow: Int, _ rank: Int, _ service: Double, now: MonotonicTime
    ) {
        guard case .leastAttained = bands[rank].configuration.fairness else { return }
        boundServiceUnit(of: rank, at: now)
        flows[flow].service = max(
            0, flows[flow].service + service * bands[rank].serviceUnit(at: now))
        serviceChanged(flow)
    }

    /// Keeps the unit of a band's service within bounds.
    mutating func boundServiceUnit(of rank: Int, at now: MonotonicTime) {
        guard let factor = bands[rank].restartServiceEpoch(at: now) else { return }
        for index in flowIndex.values where flows[Int(index)].key.priority == bands[rank].priority {
            flows[Int(index)].service *= factor
            flows[Int(index)].othersService *= factor
        }
    }

    // MARK: - Slots

    private mutating func take(
        _ flow: Int32, _ request: FlowRequest, now: MonotonicTime
    ) -> Int32 {
        let slot: Int32
        if let free = freeSlots.popLast() {
            slot = free
        } else {
            slot = Int32(slots.count)
            slots.append(Slot())
            slotPositions.append(0)
            deadlinePositions.append(0)
        }
        slots[Int(slot)].flow = flow
        slots[Int(slot)].byteCount = request.byteSize
        slots[Int(slot)].promptTokenCount = request.promptTokenCount
        slots[Int(slot)].enqueuedAt = now
        flows[Int(flow)].usedAt = now
        return slot
    }

    private mutating func release(_ slot: Int32) {
        slots[Int(slot)].state = .free
        slots[Int(slot)].generation &+= 1
        freeSlots.append(slot)
    }

    /// The request goes to the pool.
    private mutating func start(_ slot: Int32, rank: Int, now: MonotonicTime) {
        slots[Int(slot)].state = .inFlight
        let flow = Int(slots[Int(slot)].flow)
        flows[flow].inFlightCount += 1
        charge(flow, rank, charged(slots[Int(slot)]), now: now)
        guard configuration.enableEviction, bands[rank].priority < 0 else { return }
        sequence += 1
        evictions.started(
            slot, priority: bands[rank].priority, sequence: sequence, &slotPositions)
    }

    private mutating func removeForGood(_ slot: Int32) -> FlowRequestID {
        let id = id(of: slot)
        let priority = priority(of: id)
        guard let rank = bands.firstIndex(where: { $0.priority == priority }) else {
            preconditionFailure("a request waits in no band")
        }
        remove(slot, rank: rank, wasServed: false)
        release(slot)
        return id
    }

    /// Takes a request out of the queues; it keeps its slot.
    private mutating func remove(_ slot: Int32, rank: Int, wasServed: Bool) {
        let bytes = slots[Int(slot)].byteCount
        let flow = slots[Int(slot)].flow
        let wasHead = flows[Int(flow)].queue.first?.id == slot
        flows[Int(flow)].queue.remove(slot, &slotPositions)
        deadlines.remove(slot, &deadlinePositions)
        flows[Int(flow)].byteCount -= bytes
        bands[rank].requestCount -= 1
        bands[rank].byteCount -= bytes
        count -= 1
        byteCount -= bytes
        if wasHead { headChanged(flow, rank: rank, isNew: false, wasServed: wasServed) }
    }

    func id(of slot: Int32) -> FlowRequestID {
        FlowRequestID(slot: slot, generation: slots[Int(slot)].generation)
    }

    func priority(of id: FlowRequestID) -> Int {
        flows[Int(slots[Int(id.slot)].flow)].key.priority
    }

    // MARK: - Garbage

    /// Forgets flows and bands that nobody has used for long. Does something every ten seconds at
    /// most, sooner only if there are as many flows as there may be.
    public mutating func collectGarbage(now: MonotonicTime) {
        let isFull = flowIndex.count >= Self.maximumFlows
        let interval = isFull ? Duration.seconds(1) : Self.collectionInterval
        if let collectedAt, now - collectedAt < interval { return }
        collectedAt = now
        let lifetime = isFull ? .seconds(1) : Self.flowLifetime
        for (key, index) in flowIndex where flows[Int(index)].isIdle {
            guard now - flows[Int(index)].usedAt > lifetime else { continue }
            flowIndex[key] = nil
            freeFlows.append(index)
            if let rank = bands.firstIndex(where: { $0.priority == key.priority }) {
                bands[rank].flowCount -= 1
            }
        }
        bands.removeAll {
            !$0.isConfigured && $0.flowCount == 0 && now - $0.usedAt > Self.bandLifetime
        }
    }
}
