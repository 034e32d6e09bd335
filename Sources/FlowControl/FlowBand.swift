import Core

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// The requests of one fairness id in one band.
struct Flow: Sendable {
    var key: FlowID
    /// Those that wait, the next one first.
    var queue = IndexedHeap()
    var byteCount = 0
    var inFlightCount = 0
    /// The service that it got, in units of the band's ``FlowBand/serviceUnit(at:)`` of its time.
    var service = 0.0
    /// What other routers gave it, in the same units.
    var othersService = 0.0
    /// Whether other routers are to be told of its service.
    var isServiceNews = false
    var usedAt: MonotonicTime

    var isIdle: Bool { queue.isEmpty && inFlightCount == 0 }
}

/// A priority: its limits and policies, and the flows that wait.
struct FlowBand: Sendable {
    let priority: Int
    let configuration: FlowControlConfiguration.Band
    /// Whether it is kept while nobody uses it.
    let isConfigured: Bool

    var requestCount = 0
    var byteCount = 0
    var flowCount = 0
    var usedAt: MonotonicTime
    /// The flows that wait, by what the fairness policy goes by: the order of their first
    /// requests, or their turn.
    var waiting = IndexedHeap()
    /// Calls since the soft reflective ceiling let one through.
    var closedCalls = 0

    private var turn: UInt64 = 0
    private var serviceEpoch: MonotonicTime

    init(
        priority: Int, _ configuration: FlowControlConfiguration.Band, isConfigured: Bool,
        now: MonotonicTime
    ) {
        self.priority = priority
        self.configuration = configuration
        self.isConfigured = isConfigured
        usedAt = now
        serviceEpoch = now
    }

    /// What orders a flow whose first request is `head` among the others that wait. Each call is
    /// a new turn.
    mutating func place(_ flow: Int32, head: IndexedHeap.Item) -> IndexedHeap.Item {
        guard configuration.fairness != .globalStrict else {
            return IndexedHeap.Item(key: head.key, sequence: head.sequence, id: flow)
        }
        turn += 1
        return IndexedHeap.Item(key: turn, sequence: 0, id: flow)
    }

    /// How much a token of service weighs now. Service is forgotten by half-lives; instead of
    /// making what was got smaller, what is got later is made greater.
    func serviceUnit(at now: MonotonicTime) -> Double {
        guard case .leastAttained(let policy) = configuration.fairness else { return 1 }
        return exp2((now - serviceEpoch).seconds / policy.halfLifeSeconds)
    }

    /// Brings the unit back to 1 before it grows out of bounds. Returns what every flow's service
    /// is to be multiplied with; nil if nothing was done.
    mutating func restartServiceEpoch(at now: MonotonicTime) -> Double? {
        let unit = serviceUnit(at: now)
        guard unit > 0x1p40 else { return nil }
        serviceEpoch = now
        return 1 / unit
    }
}
