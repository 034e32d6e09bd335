public import Core

/// How much of a prompt each endpoint holds in its prefix cache, by one producer.
public struct PrefixCacheMatch: Sendable {
    /// The name of the producer.
    public let producer: String
    /// Tokens per block.
    public var blockSize = 0
    /// The full blocks of the prompt; 0 if the producer could not tell.
    public var totalBlocks = 0
    /// For each endpoint of the context, the leading blocks that it holds.
    public var matchedBlocks: [Int] = []
    /// For each endpoint of the context, the same with each block weighted by its tier, 0 to 1.
    public var weightedBlocks: [Double] = []
    /// The request keys of the full blocks, if the producer works with them.
    public var requestKeys: [UInt64] = []

    /// Makes an empty match.
    public init(producer: String) {
        self.producer = producer
    }

    /// Forgets the last request; keeps the storage.
    public mutating func reset(endpointCount: Int, blockSize: Int) {
        self.blockSize = blockSize
        totalBlocks = 0
        requestKeys.removeAll(keepingCapacity: true)
        matchedBlocks.removeAll(keepingCapacity: true)
        matchedBlocks.append(contentsOf: repeatElement(0, count: endpointCount))
        weightedBlocks.removeAll(keepingCapacity: true)
        weightedBlocks.append(contentsOf: repeatElement(0, count: endpointCount))
    }
}

/// How much of a request's media each endpoint is likely to have encoded, by one producer.
public struct MediaCacheMatch: Sendable {
    /// The name of the producer.
    public let producer: String
    /// The sizes of all items together; 0 if the producer could not tell.
    public var totalSize = 0
    /// For each endpoint of the context, the sizes of those that it has together.
    public var matchedSizes: [Int] = []

    /// Makes an empty match.
    public init(producer: String) {
        self.producer = producer
    }

    /// Forgets the last request; keeps the storage.
    public mutating func reset(endpointCount: Int) {
        totalSize = 0
        matchedSizes.removeAll(keepingCapacity: true)
        matchedSizes.append(contentsOf: repeatElement(0, count: endpointCount))
    }
}

/// How fast an endpoint is expected to answer a request.
public struct LatencyPrediction: Equatable, Sendable {
    /// Milliseconds to the first token.
    public var ttftMilliseconds: Double
    /// Milliseconds for each further token.
    public var tpotMilliseconds: Double

    /// Makes a prediction.
    public init(ttftMilliseconds: Double, tpotMilliseconds: Double) {
        self.ttftMilliseconds = ttftMilliseconds
        self.tpotMilliseconds = tpotMilliseconds
    }
}

/// Everything that a decision is made from. The storage is used again for the next request, so
/// that a decision allocates nothing per endpoint.
public struct SchedulingContext {
    /// The pool. Candidates are indices into this array.
    public var endpoints: [Endpoint] = []
    /// Names the contents of `endpoints`: equal numbers mean equal endpoints. Nil if not known.
    public var poolGeneration: Int?
    /// The load of each endpoint as last scraped.
    public var loads: [ServerLoad] = []
    /// The requests that this router, and those that tell it of theirs, have in flight at each
    /// endpoint.
    public var inFlight: [Int] = []
    /// The requests that others, who do not tell, have in flight at each endpoint, as last scraped; empty if that is
    /// not known.
    public var othersInFlight: [Int] = []
    /// The prompt tokens that each endpoint has yet to compute for these requests.
    public var prefillTokensInFlight: [Int] = []
    /// The tokens that each endpoint is expected to generate yet for these requests; empty unless a producer estimates them.
    public var outputTokensInFlight: [Int] = []
    /// The request.
    public var request: SchedulingRequest
    /// When the decision is made.
    public var now: MonotonicTime
    /// What the producers of prefix matches found out.
    public var prefixMatches: [PrefixCacheMatch] = []
    /// What the producers of media matches found out.
    public var mediaMatches: [MediaCacheMatch] = []
    /// How fast each endpoint is expected to answer; empty unless a producer predicts it.
    public var predictions: [LatencyPrediction?] = []
    /// Who was picked for an earlier stage of this request, which the next should be near to.
    public var peer: Int?
    /// Determines the random choices of filters and admitters in this decision.
    public var seed: UInt64 = 0

    /// Makes a context without endpoints.
    public init(request: SchedulingRequest, now: MonotonicTime = .now) {
        self.request = request
        self.now = now
    }

    /// A source of random choices that is the same for equal decisions; `salt` tells plugins apart.
    public func random(salt: String) -> RandomSource {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for byte in salt.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
        return RandomSource(seed: seed ^ hash)
    }

    /// The tokens that an endpoint has in flight: of prompts that it has yet to
    /// compute, and those that it is expected to generate.
    public func tokensInFlight(at endpoint: Int) -> Int {
        prefillTokensInFlight[endpoint]
            + (outputTokensInFlight.isEmpty ? 0 : outputTokensInFlight[endpoint])
    }

    /// The media match by a producer; nil if it has found out nothing about this request.
    public func mediaMatch(by producer: String) -> MediaCacheMatch? {
        mediaMatches.first { $0.producer == producer && $0.totalSize > 0 }
    }

    /// Where a producer writes its media match: an index into ``mediaMatches``, already reset.
    public mutating func resetMediaMatch(by producer: String) -> Int {
        let index: Int
        if let known = mediaMatches.firstIndex(where: { $0.producer == producer }) {
            index = known
        } else {
            index = mediaMatches.count
            mediaMatches.append(MediaCacheMatch(producer: producer))
        }
        mediaMatches[index].reset(endpointCount: endpoints.count)
        return index
    }

    /// The match by a producer; nil if it has found out nothing about this request.
    public func prefixMatch(by producer: String) -> PrefixCacheMatch? {
        prefixMatches.first { $0.producer == producer && $0.totalBlocks > 0 }
    }

    /// The tokens of the prompt that an endpoint would have to compute. What is cached is what the
    /// producer found, or the first that found anything if `producer` is nil.
    public func uncachedTokenCount(at endpoint: Int, by producer: String? = nil) -> Int {
        let match =
            producer.map { prefixMatch(by: $0) } ?? prefixMatches.first { $0.totalBlocks > 0 }
        let cached = match.map { $0.matchedBlocks[endpoint] * $0.blockSize } ?? 0
        return max(0, request.promptTokenCount - cached)
    }

    /// Forgets what was found out about the last request; keeps the storage.
    mutating func forgetFindings() {
        for index in prefixMatches.indices { prefixMatches[index].totalBlocks = 0 }
        for index in mediaMatches.indices { mediaMatches[index].totalSize = 0 }
        outputTokensInFlight.removeAll(keepingCapacity: true)
        predictions.removeAll(keepingCapacity: true)
        peer = nil
    }

    /// Where a producer writes its match: an index into ``prefixMatches``, already reset.
    public mutating func resetPrefixMatch(by producer: String, blockSize: Int) -> Int {
        let index: Int
        if let known = prefixMatches.firstIndex(where: { $0.producer == producer }) {
            index = known
        } else {
            index = prefixMatches.count
            prefixMatches.append(PrefixCacheMatch(producer: producer))
        }
        prefixMatches[index].reset(endpointCount: endpoints.count, blockSize: blockSize)
        return index
    }
}
