public import Configuration
public import Core
public import Hashing
public import KVIndex
public import Scheduling
import Synchronization

/// `precise-prefix-cache-producer`: looks up which endpoint holds how much of the prompt, in an
/// index that the engines' KV events fill.
///
/// With `speculativeIndexing` the index is told of each decision, so that a burst of equal prompts
/// follows the first one before its events arrive.
///
/// A model server of several data-parallel ranks counts with the rank that holds most, although it
/// chooses itself which of them serves. As nobody knows which one that will be, the index is not
/// told of decisions for such a server.
public final class PrecisePrefixCacheProducer: PromptFollower, PreRequest {
    /// The type's name.
    public static let type = "precise-prefix-cache-producer"
    /// Its type and name.
    public let name: PluginName
    /// The keys of blocks are made from tokens.
    public var promptNeeds: PromptNeeds { .tokens }

    /// The index's handles of the context's endpoints.
    private struct Handles {
        var poolGeneration: Int?
        var endpointVersion: Int
        /// Those of all ranks of the first endpoint, then those of the second.
        var ranks: [EndpointHandle] = []
        /// For each endpoint where its ranks end.
        var ends: [Int] = []

        subscript(endpoint: Int) -> ArraySlice<EndpointHandle> {
            ranks[(endpoint == 0 ? 0 : ends[endpoint - 1])..<ends[endpoint]]
        }
    }

    private let index: KVIndex
    private let weights: TierWeights
    private let speculativeTTL: Duration?
    private let handles = Mutex<Handles?>(nil)
    /// Results of earlier lookups, to be overwritten by the next.
    private let spareMatches = Mutex<[PrefixMatches]>([])

    /// Registers the type. `makeIndex` is called once for each instance in a configuration, with
    /// the index configuration that its parameters ask for, and before it `shareIndex` with the
    /// section that tells how to share it through a server, and `shareReplicas` with the one that
    /// tells how to share it with other routers, if there is one; `shareIndex` returns the function
    /// of the request keys if the parameters name none.
    public static func register(
        in registry: inout PluginRegistry,
        makeIndex: @escaping @Sendable (KVIndex.Configuration) throws(KVIndexError) -> KVIndex,
        shareIndex:
            @escaping @Sendable (ConfigValue) throws(ConfigError)
            -> RequestKeyAlgorithm = {
                (section) throws(ConfigError) in throw section.error("is not possible here")
            },
        shareReplicas: @escaping @Sendable (ConfigValue) throws(ConfigError) -> Void = {
            (section) throws(ConfigError) in throw section.error("is not possible here")
        }
    ) {
        registry.register(type) { (source) throws(ConfigError) in
            try PrecisePrefixCacheProducer(
                &source, makeIndex: makeIndex, shareIndex: shareIndex, shareReplicas: shareReplicas)
        }
    }

    /// Parameters: `tokenProcessorConfig`, also inside `indexerConfig`: `blockSize` (16), also
    /// `blockSizeTokens`, `hashSeed` (""), `hashAlgorithm` (`xxh64`; `cbor-fnv`, upstream's default,
    /// where the index is shared in upstream's layout); `speculativeIndexing` (false),
    /// `speculativeTTL` (2s); `indexerConfig.kvCacheBackendConfigs` (a list of `name` and `weight`:
    /// gpu 1, cpu 0.8, disk 0.6, remote 0.4), or instead of it `indexerConfig.loadTimeWeights`
    /// (``LoadTimeWeights``); and in `indexerConfig.kvBlockIndexConfig` one of `redisConfig` and
    /// `valkeyConfig`, `replicaConfig`, or both.
    ///
    /// What upstream's files say besides is checked and has nothing to tell here: events are taken
    /// from the endpoints that name where they publish them, and the index always has metrics.
    private init(
        _ source: inout PluginSource,
        makeIndex: (KVIndex.Configuration) throws(KVIndexError) -> KVIndex,
        shareIndex: (ConfigValue) throws(ConfigError) -> RequestKeyAlgorithm,
        shareReplicas: (ConfigValue) throws(ConfigError) -> Void
    ) throws(ConfigError) {
        name = source.name
        var configuration = KVIndex.Configuration()
        let tokens = source.parameters.orEmpty("tokenProcessorConfig")
        try Self.checkEvents(source.parameters.orEmpty("kvEventsConfig"))
        let inner: ConfigValue
        let sharing: ConfigValue?
        (inner, sharing, weights) = try source.parameters.orEmpty("indexerConfig").section {
            (indexer) throws(ConfigError) in
            _ = indexer.optional("tokenizersPoolConfig")
            return (
                indexer.orEmpty("tokenProcessorConfig"),
                try Self.sharing(indexer.orEmpty("kvBlockIndexConfig"), shareReplicas),
                try Self.weights(&indexer)
            )
        }
        if let sharing { configuration.algorithm = try shareIndex(sharing) }
        try Self.read(tokens, into: &configuration)
        try Self.read(inner, into: &configuration)
        let isSpeculative =
            try source.parameters.optional("speculativeIndexing")?.boolean() ?? false
        let ttl = try source.parameters.optional("speculativeTTL")?.duration() ?? .seconds(2)
        speculativeTTL = isSpeculative ? ttl : nil
        do {
            index = try makeIndex(configuration)
        } catch {
            throw source.parameters.error("cannot have its index: \(error)")
        }
    }

    /// Reads what is given of a `tokenProcessorConfig`.
    private static func read(
        _ value: ConfigValue, into configuration: inout KVIndex.Configuration
    ) throws(ConfigError) {
        try value.section { (section) throws(ConfigError) in
            let size = section.optional("blockSize")
            if let size = size ?? section.optional("blockSizeTokens") {
                configuration.blockSize = try size.integer(in: 1...65536)
            }
            if let seed = section.optional("hashSeed") {
                configuration.hashSeed = try seed.string()
                guard configuration.hashSeed.utf8.count <= KVIndex.maximumHashSeedBytes else {
                    throw seed.error(
                        "has \(configuration.hashSeed.utf8.count) bytes; "
                            + "\(KVIndex.maximumHashSeedBytes) are possible")
                }
            }
            if let algorithm = section.optional("hashAlgorithm") {
                configuration.algorithm = try algorithm.choice(of: RequestKeyAlgorithm.self)
            }
        }
    }

    private static func checkEvents(_ value: ConfigValue) throws(ConfigError) {
        try value.section { (section) throws(ConfigError) in
            _ = try section.optional("zmqEndpoint")?.string()
            _ = try section.optional("topicFilter")?.string()
            _ = try section.optional("concurrency")?.integer(in: 1...1024)
            _ = try section.optional("discoverPods")?.boolean()
            try section.orEmpty("podDiscoveryConfig").section { (section) throws(ConfigError) in
                _ = try section.optional("socketPort")?.integer(in: 1...65535)
                _ = try section.optional("podNamespace")?.string()
                _ = try section.optional("podLabelSelector")?.string()
            }
            if let engine = section.optional("engineType"),
                !["vllm", "sglang"].contains(try engine.string())
            {
                throw engine.error("must be vllm or sglang: no other engine's events are read")
            }
        }
    }

    /// The section that tells how to share the index through a server, under upstream's names. With
    /// other routers it is shared under ours; beside a server they share their load alone.
    private static func sharing(
        _ value: ConfigValue, _ shareReplicas: (ConfigValue) throws(ConfigError) -> Void
    ) throws(ConfigError) -> ConfigValue? {
        try value.section { (index) throws(ConfigError) in
            _ = try index.optional("enableMetrics")?.boolean()
            _ = index.optional("metricsLoggingInterval")
            _ = try index.optional("maxPrefixTokensToMatch")?.integer(in: 0 ... .max)
            let redis = index.optional("redisConfig")
            let valkey = index.optional("valkeyConfig")
            if let replicas = index.optional("replicaConfig") { try shareReplicas(replicas) }
            guard let valkey else { return redis }
            guard redis == nil else {
                throw valkey.error("cannot stand beside redisConfig: one server is enough")
            }
            return valkey
        }
    }

    /// A tier as configurations and engines name it.
    private enum TierName: String, CaseIterable {
        case gpu, cpu, disk, storage, remote

        var tier: Tier {
            switch self {
            case .gpu: .gpu
            case .cpu: .cpu
            case .disk, .storage: .disk
            case .remote: .remote
            }
        }
    }

    /// What a block is worth by its tier; a tier that is not named has its standard weight.
    private static func weights(
        _ indexer: inout ConfigSection
    ) throws(ConfigError) -> TierWeights {
        let fixed = indexer.optional("kvCacheBackendConfigs")
        if let loadTimes = indexer.optional("loadTimeWeights") {
            guard fixed == nil else {
                throw loadTimes.error("cannot stand beside kvCacheBackendConfigs: both are weights")
            }
            return try LoadTimeWeights.weights(loadTimes)
        }
        var weights = TierWeights.standard
        var named: Set<Tier> = []
        for entry in try fixed?.list() ?? [] {
            try entry.section { (section) throws(ConfigError) in
                let name = try section.required("name")
                let tier = try name.choice(of: TierName.self).tier
                guard named.insert(tier).inserted else {
                    throw name.error("names a tier a second time")
                }
                weights[tier] = try section.required("weight").number(in: 0...1)
            }
        }
        return weights
    }

    /// Hashes the blocks of token ids, if the model that they go to is known: each key covers it.
    public func follow(_ beginning: PromptBeginning) -> (any PromptWork)? {
        guard beginning.form == .tokens, let model = beginning.targetModel else { return nil }
        return GrowingRequestKeys(
            index.hasher(model: model), cacheSalt: beginning.cacheSalt,
            expectedBytes: beginning.expectedBytes)
    }

    /// Looks the prompt's blocks up, all endpoints at once.
    public func produce(into context: inout SchedulingContext) {
        let request = context.request
        guard request.tokenCount >= index.configuration.blockSize else { return }
        let keys = requestKeys(of: request)
        var matches = spareMatches.withLock { $0.popLast() } ?? PrefixMatches()
        index.match(keys.span, at: .now, into: &matches)

        let handles = handles(of: context)
        let slot = context.resetPrefixMatch(
            by: name.name, blockSize: index.configuration.blockSize)
        context.prefixMatches[slot].totalBlocks = keys.count
        for endpoint in handles.ends.indices {
            for handle in handles[endpoint] {
                let match = matches[handle]
                let weighted = match.weighted(by: weights)
                guard weighted > context.prefixMatches[slot].weightedBlocks[endpoint] else {
                    continue
                }
                context.prefixMatches[slot].matchedBlocks[endpoint] = match.blockCount
                context.prefixMatches[slot].weightedBlocks[endpoint] = weighted
            }
        }
        context.prefixMatches[slot].requestKeys = keys
        index.recentLookups.note(keys)
        spareMatches.withLock { [matches] in $0.append(matches) }
    }

    /// Tells the index which endpoints will hold the prompt soon.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard let speculativeTTL, let match = context.prefixMatch(by: name.name) else { return }
        let handles = handles(of: context)
        let until = MonotonicTime.now + speculativeTTL
        for pick in [result.primary.first, result.prefill.first] {
            guard let pick, context.endpoints[pick.index].server.dataParallelSize == 1,
                let handle = handles[pick.index].first, handles[pick.index].count == 1
            else { continue }
            index.expect(match.requestKeys.span, at: handle, until: until)
        }
    }

    private func requestKeys(of request: SchedulingRequest) -> [UInt64] {
        let hasher = index.hasher(model: request.targetModel)
        if let done = request.promptWork(of: name.name) as? GrowingRequestKeys,
            done.hasher == hasher, done.cacheSalt == request.cacheSalt
        {
            return done.keys
        }
        guard let salt = request.cacheSalt else { return hasher.keys(of: request.tokens.span) }
        let salted = hasher.extraKeys([salt])
        return hasher.keys(of: request.tokens.span) { $0 == 0 ? salted : .none }
    }

    /// The index's handles of the context's endpoints; none for one that it has not met.
    private func handles(of context: SchedulingContext) -> Handles {
        // Before the handles: who comes meanwhile makes them old.
        let version = index.endpointVersion
        if let generation = context.poolGeneration, let known = handles.withLock(\.self),
            known.poolGeneration == generation, known.endpointVersion == version
        {
            return known
        }
        var found = Handles(poolGeneration: context.poolGeneration, endpointVersion: version)
        for ranks in index.ranks(of: context.endpoints.map(\.server.name)) {
            found.ranks += ranks.map(\.handle)
            found.ends.append(found.ranks.count)
        }
        if context.poolGeneration != nil { handles.withLock { [found] in $0 = found } }
        return found
    }
}
