public import Core
import Synchronization

/// An endpoint and what changes about it while it is in the pool: load, health, requests in
/// flight. Any thread; readers never wait.
public final class PoolMember: Sendable {
    /// What does not change.
    public let endpoint: Endpoint

    private let waitingCount = Atomic<Int>(0)
    private let runningCount = Atomic<Int>(0)
    private let kvUsageBits = Atomic<UInt64>(0)
    private let blockSize = Atomic<Int>(0)
    private let blockCount = Atomic<Int>(0)
    private let scrapedAt = Atomic<UInt64>(0)
    /// What few engines tell; looked at only if `hasExtras`.
    private let extras = Mutex(LoadExtras())
    private let hasExtras = Atomic<Bool>(false)

    private let inFlight = Atomic<Int>(0)
    private let others = Atomic<Int>(0)
    private let prefillTokens = Atomic<Int>(0)
    private let prefills = Atomic<Int>(0)
    private let peersRequests = Atomic<Int>(0)
    private let peersTokens = Atomic<Int>(0)
    private let healthy = Atomic<Bool>(true)
    private let suspect = Atomic<Bool>(false)
    private let hasCleanCircuit = Atomic<Bool>(true)
    private let health: Mutex<EndpointHealth>

    init(_ endpoint: Endpoint, circuit: CircuitBreaker.Rules) {
        self.endpoint = endpoint
        health = Mutex(EndpointHealth(circuit))
    }

    /// The load as last scraped. The figures are read one by one: a scrape that ends meanwhile
    /// may show in some of them only.
    public var load: ServerLoad {
        var load = ServerLoad()
        load.waitingCount = waitingCount.load(ordering: .relaxed)
        load.runningCount = runningCount.load(ordering: .relaxed)
        load.kvUsage = Double(bitPattern: kvUsageBits.load(ordering: .relaxed))
        let size = blockSize.load(ordering: .relaxed)
        let count = blockCount.load(ordering: .relaxed)
        let time = scrapedAt.load(ordering: .relaxed)
        load.blockSize = size == 0 ? nil : size
        load.blockCount = count == 0 ? nil : count
        if hasExtras.load(ordering: .relaxed) {
            let extras = extras.withLock(\.self)
            load.lora = extras.lora
            load.attributes = extras.attributes
        }
        load.scrapedAt = time == 0 ? nil : MonotonicTime(nanoseconds: time)
        return load
    }

    /// Whether requests may go there.
    public var isHealthy: Bool { healthy.load(ordering: .relaxed) }

    /// Whether nothing but failed answers keeps requests away: where there is no other endpoint, one
    /// that mostly fails is better than none.
    public var isSuspect: Bool { suspect.load(ordering: .relaxed) }

    /// Whether requests have opened its circuit and none has closed it since. Takes a lock.
    public var hasOpenCircuit: Bool { health.withLock { $0.circuit.cause != nil } }

    /// The requests of this router that are there and have not ended.
    public var inFlightCount: Int { inFlight.load(ordering: .relaxed) }

    /// The requests that are there as far as routers know: of this one, and of those that tell it
    /// of theirs.
    public var knownInFlightCount: Int {
        inFlightCount + peersRequests.load(ordering: .relaxed)
    }

    /// The requests of others that are there: by how much the last good scrape showed more, waiting
    /// and running, than was known to be there at that moment. Other routers in front of the same
    /// servers that do not tell of their load show in this.
    public var othersInFlightCount: Int { others.load(ordering: .relaxed) }

    /// Counts a request in. ``requestEnded(wasProbe:)`` must follow once.
    ///
    /// - Returns: Whether the request is the probe of an open circuit. Requests that other threads
    ///   start at the same moment may go along with it.
    @discardableResult
    public func requestStarted() -> Bool {
        inFlight.wrappingAdd(1, ordering: .relaxed)
        guard !hasCleanCircuit.load(ordering: .relaxed) else { return false }
        return judge { $0.requestStarted(at: .now) }
    }

    /// Counts a request out.
    public func requestEnded(wasProbe: Bool = false) {
        if wasProbe { judge { $0.probeEnded() } }
        let count = inFlight.wrappingSubtract(1, ordering: .relaxed).newValue
        precondition(count >= 0, "a request ended that had not started")
    }

    /// The prompt tokens that this router has sent there to be computed, and that are not known
    /// to be.
    public var prefillTokensInFlight: Int { prefillTokens.load(ordering: .relaxed) }

    /// The prompts that these tokens are of.
    public var prefillsInFlightCount: Int { prefills.load(ordering: .relaxed) }

    /// The prompt tokens yet to be computed there for this router, and for those that tell it of
    /// theirs.
    public var knownPrefillTokens: Int {
        prefillTokensInFlight + peersTokens.load(ordering: .relaxed)
    }

    /// Takes what other routers have there together, as far as they tell.
    public func setPeersLoad(_ load: InFlightLoad) {
        peersRequests.store(load.requests, ordering: .relaxed)
        peersTokens.store(load.prefillTokens, ordering: .relaxed)
    }

    /// Counts a prompt's tokens in. ``prefillEnded(tokenCount:)`` must follow once.
    public func prefillStarted(tokenCount: Int) {
        prefills.wrappingAdd(1, ordering: .relaxed)
        prefillTokens.wrappingAdd(tokenCount, ordering: .relaxed)
    }

    /// Counts a prompt's tokens out.
    public func prefillEnded(tokenCount: Int) {
        prefills.wrappingSubtract(1, ordering: .relaxed)
        let count = prefillTokens.wrappingSubtract(tokenCount, ordering: .relaxed).newValue
        precondition(count >= 0, "a prefill ended that had not started")
    }

    /// A request could not connect: the endpoint is avoided from now on.
    public func requestFailedToConnect(at now: MonotonicTime) {
        judge { $0.requestFailedToConnect(at: now) }
    }

    /// A request got an answer, or failed after it was sent. Failures in a row keep requests away.
    public func requestAnswered(isFailure: Bool, at now: MonotonicTime) {
        if isFailure {
            judge { $0.requestFailed(at: now) }
        } else if !hasCleanCircuit.load(ordering: .relaxed) {
            judge { $0.requestSucceeded() }
        }
    }

    /// A scrape ended, with `outcome` at `now`. The load of a failed scrape is that of the last
    /// good one.
    public func scraped(_ outcome: ScrapeOutcome, at now: MonotonicTime) {
        switch outcome {
        case .load(let load):
            store(load, at: now)
            judge { $0.scraped(at: now) }
        case .unreadable: judge { $0.scraped(at: now) }
        case .failedToConnect: judge { $0.scrapeFailedToConnect() }
        case .timedOut: judge { $0.scrapeTimedOut() }
        }
    }

    private func store(_ load: ServerLoad, at now: MonotonicTime) {
        others.store(
            max(0, load.waitingCount + load.runningCount - knownInFlightCount),
            ordering: .relaxed)
        waitingCount.store(load.waitingCount, ordering: .relaxed)
        runningCount.store(load.runningCount, ordering: .relaxed)
        kvUsageBits.store(load.kvUsage.bitPattern, ordering: .relaxed)
        blockSize.store(load.blockSize ?? 0, ordering: .relaxed)
        blockCount.store(load.blockCount ?? 0, ordering: .relaxed)
        let extras = LoadExtras(lora: load.lora, attributes: load.attributes)
        if extras.isEmpty != !hasExtras.load(ordering: .relaxed) || !extras.isEmpty {
            self.extras.withLock { $0 = extras }
            hasExtras.store(!extras.isEmpty, ordering: .relaxed)
        }
        scrapedAt.store(now.nanoseconds, ordering: .relaxed)
    }

    private func judge<Result: Sendable>(_ event: (inout EndpointHealth) -> Result) -> Result {
        health.withLock { health in
            let result = event(&health)
            healthy.store(health.isHealthy, ordering: .relaxed)
            suspect.store(
                health.isReachable && health.circuit.cause == .answer, ordering: .relaxed)
            hasCleanCircuit.store(health.circuit.isClean, ordering: .relaxed)
            return result
        }
    }
}

/// The part of a load that is no number.
private struct LoadExtras {
    var lora: LoRALoad?
    var attributes: [String: Double] = [:]
    var isEmpty: Bool { lora == nil && attributes.isEmpty }
}

/// What came of asking a server for its metrics.
public enum ScrapeOutcome: Sendable {
    /// A page of metrics.
    case load(ServerLoad)
    /// An answer that is no page of metrics: the server lives, its load is not known.
    case unreadable
    /// No connection, or one that broke.
    case failedToConnect
    /// No answer in time.
    case timedOut
}
