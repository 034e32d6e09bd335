public import Configuration
public import Core
import Hashing
public import KVIndex
public import Scheduling
import Synchronization

/// `precise-prefix-cache-producer`: looks up which endpoint holds how much of the prompt, in an
/// index that the engines' KV events fill.
///
/// With `speculativeIndexing` the index is told of each decision, so that a burst of equal prompts
/// follows the first one before its events arrive.
public final class PrecisePrefixCacheProducer: DataProducer, PreRequest {
    /// The type's name.
    public static let type = "precise-prefix-cache-producer"
    /// Its type and name.
    public let name: PluginName
    /// The keys of blocks are made from tokens.
    public var needsTokens: Bool { true }

    private struct Handles {
        var generation: Int
        var handles: [EndpointHandle?]
    }

    private let index: KVIndex
    private let speculativeTTL: Duration?
    private let handles = Mutex<Handles?>(nil)
    /// Results of earlier lookups, to be overwritten by the next.
    private let spareMatches = Mutex<[PrefixMatches]>([])

    /// Registers the type. `makeIndex` is called once for each instance in a configuration, with
    /// the index configuration that its parameters ask for, and then `shareIndex` with the section
    /// that tells how to share it through a server, or `shareReplicas` with the one that tells how
    /// to share it with other routers, if there is one.
    public static func register(
        in registry: inout PluginRegistry,
        makeIndex: @escaping @Sendable (KVIndex.Configuration) throws(KVIndexError) -> KVIndex,
        shareIndex: @escaping @Sendable (ConfigValue) throws(ConfigError) -> Void = {
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

    /// Parameters: `tokenProcessorConfig.blockSize` (16), `tokenProcessorConfig.hashSeed` (""),
    /// `speculativeIndexing` (false), `speculativeTTL` (2s), and one of
    /// `indexerConfig.kvBlockIndexConfig.redisConfig`, `valkeyConfig` and `replicaConfig`.
    private init(
        _ source: inout PluginSource,
        makeIndex: (KVIndex.Configuration) throws(KVIndexError) -> KVIndex,
        shareIndex: (ConfigValue) throws(ConfigError) -> Void,
        shareReplicas: (ConfigValue) throws(ConfigError) -> Void
    ) throws(ConfigError) {
        name = source.name
        var configuration = KVIndex.Configuration()
        (configuration.blockSize, configuration.hashSeed) =
            try source.parameters.orEmpty("tokenProcessorConfig").section {
                (section) throws(ConfigError) in
                (
                    try section.optional("blockSize")?.integer(in: 1...65536) ?? 16,
                    try section.optional("hashSeed")?.string() ?? ""
                )
            }
        let isSpeculative =
            try source.parameters.optional("speculativeIndexing")?.boolean() ?? false
        let ttl = try source.parameters.optional("speculativeTTL")?.duration() ?? .seconds(2)
        speculativeTTL = isSpeculative ? ttl : nil
        do {
            index = try makeIndex(configuration)
        } catch {
            throw source.parameters.error("cannot have its index: \(error)")
        }
        if let section = try Self.sharing(&source, shareReplicas) { try shareIndex(section) }
    }

    /// The section that tells how to share the index through a server, under upstream's names, or
    /// else with other routers, under ours.
    private static func sharing(
        _ source: inout PluginSource, _ shareReplicas: (ConfigValue) throws(ConfigError) -> Void
    ) throws(ConfigError) -> ConfigValue? {
        try source.parameters.orEmpty("indexerConfig").section { (indexer) throws(ConfigError) in
            try indexer.orEmpty("kvBlockIndexConfig").section { (index) throws(ConfigError) in
                let redis = index.optional("redisConfig")
                let valkey = index.optional("valkeyConfig")
                if let replicas = index.optional("replicaConfig") {
                    guard redis == nil, valkey == nil else {
                        throw replicas.error(
                            "cannot stand beside redisConfig: one way to share is enough")
                    }
                    try shareReplicas(replicas)
                }
                guard let valkey else { return redis }
                guard redis == nil else {
                    throw valkey.error("cannot stand beside redisConfig: one server is enough")
                }
                return valkey
            }
        }
    }

    /// Looks the prompt's blocks up, all endpoints at once.
    public func produce(into context: inout SchedulingContext) {
        let request = context.request
        guard request.tokens.count >= index.configuration.blockSize else { return }
        let keys = requestKeys(of: request)
        var matches = spareMatches.withLock { $0.popLast() } ?? PrefixMatches()
        index.match(keys.span, at: .now, into: &matches)

        let handles = handles(of: context)
        let slot = context.resetPrefixMatch(
            by: name.name, blockSize: index.configuration.blockSize)
        context.prefixMatches[slot].totalBlocks = keys.count
        for (endpoint, handle) in handles.enumerated() {
            guard let handle else { continue }
            let match = matches[handle]
            context.prefixMatches[slot].matchedBlocks[endpoint] = match.blockCount
            context.prefixMatches[slot].weightedBlocks[endpoint] =
                match.weighted(by: .standard)
        }
        context.prefixMatches[slot].requestKeys = keys
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
            guard let pick, let handle = handles[pick.index] else { continue }
            index.expect(match.requestKeys.span, at: handle, until: until)
        }
    }

    private func requestKeys(of request: SchedulingRequest) -> [UInt64] {
        let hasher = index.hasher(model: request.targetModel)
        guard let salt = request.cacheSalt else { return hasher.keys(of: request.tokens.span) }
        let salted = hasher.extraKeys([salt])
        return hasher.keys(of: request.tokens.span) { $0 == 0 ? salted : .none }
    }

    /// The index's handles of the context's endpoints; nil for one that it has not met.
    private func handles(of context: SchedulingContext) -> [EndpointHandle?] {
        if let generation = context.poolGeneration,
            let known = handles.withLock({ $0?.generation == generation ? $0?.handles : nil })
        {
            return known
        }
        let found = context.endpoints.map { index.endpoint(named: $0.server.name) }
        // An endpoint that is missing may be met at any time.
        if let generation = context.poolGeneration, !found.contains(nil) {
            handles.withLock { $0 = Handles(generation: generation, handles: found) }
        }
        return found
    }
}
