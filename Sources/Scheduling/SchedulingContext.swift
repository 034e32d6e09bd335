public import Core

/// A request as plugins see it.
public struct SchedulingRequest {
    /// The request id.
    public var id: String
    /// The model that the client asked for.
    public var model: String
    /// The model that the endpoint is asked for; differs from `model` after a rewrite.
    public var targetModel: String
    /// The request's headers.
    public var headers: any HeaderLookup
    /// The token ids of the prompt; empty if they are not known.
    public var tokens: [UInt32]
    /// The tokens of the prompt, estimated if `tokens` is empty.
    public var promptTokenCount: Int
    /// What else tells prompts apart in the prefix cache (`cache_salt`).
    public var cacheSalt: String?
    /// Who is served first, by the request's objective; what is below 0 may be shed.
    public var priority = 0
    /// What the body says beside the prompt.
    public var details = RequestDetails()

    /// Makes a request.
    public init(
        id: String, model: String, targetModel: String? = nil, headers: any HeaderLookup,
        tokens: [UInt32] = [], promptTokenCount: Int? = nil, cacheSalt: String? = nil
    ) {
        self.id = id
        self.model = model
        self.targetModel = targetModel ?? model
        self.headers = headers
        self.tokens = tokens
        self.promptTokenCount = promptTokenCount ?? tokens.count
        self.cacheSalt = cacheSalt
    }
}

/// How much of a prompt each endpoint holds in its prefix cache, by one producer.
public struct PrefixCacheMatch {
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

/// Everything that a decision is made from. The storage is used again for the next request, so
/// that a decision allocates nothing per endpoint.
public struct SchedulingContext {
    /// The pool. Candidates are indices into this array.
    public var endpoints: [Endpoint] = []
    /// Names the contents of `endpoints`: equal numbers mean equal endpoints. Nil if not known.
    public var poolGeneration: Int?
    /// The load of each endpoint as last scraped.
    public var loads: [ServerLoad] = []
    /// The requests that this router has in flight at each endpoint.
    public var inFlight: [Int] = []
    /// The prompt tokens that each endpoint has yet to compute for requests of this router.
    public var prefillTokensInFlight: [Int] = []
    /// The request.
    public var request: SchedulingRequest
    /// What the producers of prefix matches found out.
    public var prefixMatches: [PrefixCacheMatch] = []

    /// Makes a context without endpoints.
    public init(request: SchedulingRequest) {
        self.request = request
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

    /// Forgets what is known of the last request's prefix; keeps the storage.
    mutating func forgetPrefixMatches() {
        for index in prefixMatches.indices { prefixMatches[index].totalBlocks = 0 }
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
