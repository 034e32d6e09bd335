public import Core

/// What is known of an endpoint's load: what it said last, and what this router, and those that
/// tell it of theirs, have sent there.
public struct EndpointLoad: Sendable {
    /// Whether it computes prompts for others.
    public var takesPrefill: Bool
    /// Whether it generates tokens.
    public var takesDecode: Bool
    /// Requests that wait there, as last scraped.
    public var waitingCount = 0
    /// Requests in its batch, as last scraped.
    public var runningCount = 0
    /// The part of its KV cache in use, 0 to 1, as last scraped.
    public var kvUsage = 0.0
    /// When that scrape ended; nil before the first.
    public var scrapedAt: MonotonicTime?
    /// Requests that are known to be there.
    public var inFlightCount = 0
    /// Prompt tokens that are known to be computed there yet.
    public var inFlightTokens = 0
    /// The prompts that these are of.
    public var inFlightPrompts = 0

    /// Makes the load of an endpoint of which nothing is known but what it is for.
    public init(takesPrefill: Bool, takesDecode: Bool) {
        self.takesPrefill = takesPrefill
        self.takesDecode = takesDecode
    }
}

/// What one endpoint adds to the saturation of its stage, which is the sum of `used` over the sum
/// of `capacity`.
public struct EndpointUse: Equatable, Sendable {
    /// How much of it is in use.
    public var used: Double
    /// How much there is.
    public var capacity: Double
    /// How many more requests it can take before they add to `used`.
    public var freeRequests = 0
    /// Whether its metrics are too old to be believed.
    public var isStale = false
}

/// Says how full an endpoint is.
public protocol SaturationDetector: Sendable {
    /// The name of its type in configurations.
    static var type: String { get }

    /// Rates one endpoint.
    func use(of load: EndpointLoad, at now: MonotonicTime) -> EndpointUse

    /// What a request adds to ``EndpointUse/used`` whose prompt has so many tokens.
    func use(byPromptTokens count: Int) -> Double
}

/// `utilization-detector`: by the queue and the KV cache that the endpoint reported. The pool's
/// saturation is the mean of max(waiting / queue threshold, KV use / KV threshold).
public struct UtilizationDetector: SaturationDetector {
    /// Its type.
    public static let type = "utilization-detector"

    /// How many requests an endpoint may have sent to it between two scrapes before they count as
    /// waiting there: this many, or as many as it runs. Most of them start to run at once, but a
    /// queue of thousands must not follow one good report.
    package static let minimumAllowance = 32

    /// Of those, no more than have so many prompt tokens together: as many as an engine takes into
    /// one step begin at once, the others wait. vLLM's `max_num_batched_tokens` on a large GPU.
    package static let allowedTokens = 8192

    /// Waiting requests at which an endpoint is full.
    public var queueDepthThreshold = 5
    /// Use of the KV cache at which an endpoint is full, 0 to 1.
    public var kvCacheUtilThreshold = 0.8
    /// The age up to which metrics are new.
    public var metricsStalenessThreshold = Duration.milliseconds(200)
    /// How much longer they are held before the endpoint counts as full. A scrape that is late
    /// must not stop the pool; one that does not come at all must.
    public var metricsHold = Duration.seconds(5)

    /// The defaults.
    public init() {}

    /// Rates one endpoint.
    public func use(of load: EndpointLoad, at now: MonotonicTime) -> EndpointUse {
        guard let scrapedAt = load.scrapedAt,
            now - scrapedAt <= metricsStalenessThreshold + metricsHold
        else { return EndpointUse(used: 1, capacity: 1, isStale: true) }
        // What was sent and is in no report yet.
        let unseen = max(0, load.inFlightCount - load.waitingCount - load.runningCount)
        var allowance = max(Self.minimumAllowance, load.runningCount)
        if load.inFlightTokens > 0 {
            allowance = min(
                allowance, max(1, Self.allowedTokens * load.inFlightPrompts / load.inFlightTokens))
        }
        let waiting = load.waitingCount + max(0, unseen - allowance)
        return EndpointUse(
            used: max(
                Double(waiting) / Double(queueDepthThreshold), load.kvUsage / kvCacheUtilThreshold),
            capacity: 1, freeRequests: max(0, allowance - unseen))
    }

    /// A place in the queue, whatever its prompt.
    public func use(byPromptTokens count: Int) -> Double { 1 / Double(queueDepthThreshold) }
}

/// `concurrency-detector`: by what is known to be in flight, over what endpoints may have.
///
/// Prompt tokens fill an endpoint and no more than that: one prompt that is longer than
/// ``maxTokenConcurrency`` keeps others from its endpoint, not from all.
public struct ConcurrencyDetector: SaturationDetector {
    /// What is counted.
    public enum Mode: String, CaseIterable, Sendable {
        case requests
        case tokens
        /// Both; the fuller counts.
        case hybrid
    }

    /// Its type.
    public static let type = "concurrency-detector"

    /// What is counted.
    public var mode = Mode.requests
    /// Requests at which an endpoint is full.
    public var maxConcurrency = 100
    /// Prompt tokens yet to be computed at which an endpoint is full.
    public var maxTokenConcurrency = 1_000_000

    /// The defaults.
    public init() {}

    /// Rates one endpoint.
    public func use(of load: EndpointLoad, at now: MonotonicTime) -> EndpointUse {
        EndpointUse(
            used: used(requests: load.inFlightCount, tokens: load.inFlightTokens),
            capacity: Double(mode == .tokens ? maxTokenConcurrency : maxConcurrency))
    }

    /// One request, or its tokens.
    public func use(byPromptTokens count: Int) -> Double { used(requests: 1, tokens: count) }

    /// Tokens in `tokens` mode, else requests.
    private func used(requests: Int, tokens: Int) -> Double {
        let tokens = Double(min(tokens, maxTokenConcurrency))
        switch mode {
        case .requests: return Double(requests)
        case .tokens: return tokens
        case .hybrid:
            let asRequests = tokens * Double(maxConcurrency) / Double(maxTokenConcurrency)
            return max(Double(requests), asRequests)
        }
    }
}

/// Requests that were let through and are at no endpoint yet.
public struct UnplacedUse: Equatable, Sendable {
    /// How many there are.
    public var count: Int
    /// What they add to ``EndpointUse/used``, together.
    public var used: Double

    /// Makes the use of so many requests.
    public init(count: Int = 0, used: Double = 0) {
        self.count = count
        self.used = used
    }

    /// What those add that endpoints do not take for free.
    func used(beyond freeRequests: Int) -> Double {
        guard count > freeRequests else { return 0 }
        return used * Double(count - freeRequests) / Double(count)
    }
}

/// How full a pool is, summed up endpoint by endpoint: 0 is idle, 1 full, more is overload.
public struct PoolSaturation: Sendable {
    /// What was let through and is at no endpoint yet.
    public var unplaced = UnplacedUse()
    /// Endpoints whose metrics are too old to be believed.
    public private(set) var staleCount = 0

    private struct Stage {
        var count = 0
        var used = 0.0
        var capacity = 0.0
        var freeRequests = 0

        mutating func add(_ use: EndpointUse) {
            count += 1
            used += use.used
            capacity += use.capacity
            freeRequests += use.freeRequests
        }

        func saturation(with more: UnplacedUse) -> Double {
            guard count > 0 else { return 1 }
            return (used + more.used(beyond: freeRequests)) / capacity
        }
    }

    private var prefillStage = Stage()
    private var decodeStage = Stage()

    /// A pool without endpoints.
    public init() {}

    /// Adds an endpoint to the stages that it takes part in.
    public mutating func add(
        _ load: EndpointLoad, by detector: any SaturationDetector, at now: MonotonicTime
    ) {
        let use = detector.use(of: load, at: now)
        if use.isStale { staleCount += 1 }
        if load.takesPrefill { prefillStage.add(use) }
        if load.takesDecode { decodeStage.add(use) }
    }

    /// Whether there is no endpoint at all: whatever waits, waits for the first to come up.
    public var isPoolEmpty: Bool { prefillStage.count + decodeStage.count == 0 }

    /// The saturation of those that compute prompts for others; 0 if nobody does.
    public var prefill: Double {
        prefillStage.count == 0 ? 0 : prefillStage.saturation(with: unplaced)
    }

    /// The saturation of those that generate; 1 if nobody does.
    public var decode: Double { decodeStage.saturation(with: unplaced) }

    /// What is compared with the ceilings.
    public var effective: Double { max(prefill, decode) }
}
