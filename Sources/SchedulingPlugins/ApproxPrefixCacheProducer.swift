public import Configuration
public import Core
public import Scheduling
import Synchronization

/// `approx-prefix-cache-producer`: guesses which endpoint holds how much of the prompt from where
/// this router sent equal prompts before. Needs neither events nor a tokenizer.
public final class ApproxPrefixCacheProducer: PromptFollower, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = PrefixCacheScorer.standardProducer
    /// Its type and name.
    public let name: PluginName

    /// Smaller blocks cost more than they find.
    private static let minimumBlockSize = 64

    /// What one endpoint was sent.
    private final class Cache: Sendable {
        let blocks = Mutex(PrefixLRU(capacity: 1))
    }

    private let autoTune: Bool
    private let blockSizeTokens: Int
    private let maxPrefixTokens: Int
    private let maxPrefixBlocks: Int
    private let capacity: Int
    private let caches = PerEndpoint { Cache() }
    /// That of the last request; 0 before the first.
    private let lastBlockSize = Atomic<Int>(0)

    /// Parameters: `autoTune` (true: block size and capacity are the engines', if they tell),
    /// `blockSizeTokens` (16; less than 64 counts as 64), `maxPrefixTokensToMatch` (131072; 0:
    /// `maxPrefixBlocksToMatch` counts), `maxPrefixBlocksToMatch` (2048),
    /// `lruCapacityPerServer` (31250 blocks).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        autoTune = try source.parameters.optional("autoTune")?.boolean() ?? true
        let size = try source.parameters.optional("blockSizeTokens")?.integer(in: 0...65536) ?? 16
        blockSizeTokens = max(Self.minimumBlockSize, size)
        maxPrefixTokens =
            try source.parameters.optional("maxPrefixTokensToMatch")?.integer(in: 0...1 << 24)
            ?? 131_072
        let blocks = try source.parameters.optional("maxPrefixBlocksToMatch")?
            .integer(in: 0...1 << 20)
        maxPrefixBlocks = blocks.flatMap { $0 == 0 ? nil : $0 } ?? 2048
        let capacity = try source.parameters.optional("lruCapacityPerServer")?
            .integer(in: 0...1 << 24)
        self.capacity = capacity.flatMap { $0 == 0 ? nil : $0 } ?? 31_250
    }

    /// Hashes the contents of blocks; their keys need the model and the salt, and are quickly made
    /// of those. The size of blocks is taken to be that of the last request.
    public func follow(_ beginning: PromptBeginning) -> (any PromptWork)? {
        let blockSize = autoTune ? lastBlockSize.load(ordering: .relaxed) : blockSizeTokens
        return PromptKeys(
            of: beginning, blockSize: blockSize, maximumBlocks: maximumBlocks(of: blockSize))
    }

    /// Matches the prompt against what endpoints were sent before.
    public func produce(into context: inout SchedulingContext) {
        let blockSize = blockSize(for: context)
        if lastBlockSize.load(ordering: .relaxed) != blockSize {
            lastBlockSize.store(blockSize, ordering: .relaxed)
        }
        let keys = PromptKeys.keys(
            of: context.request, for: name.name, blockSize: blockSize,
            maximumBlocks: maximumBlocks(of: blockSize))
        guard !keys.isEmpty else { return }
        let caches = caches.states(of: context)
        let slot = context.resetPrefixMatch(by: name.name, blockSize: blockSize)
        context.prefixMatches[slot].totalBlocks = keys.count
        for (endpoint, cache) in caches.enumerated() {
            let count = cache.blocks.withLock { $0.matchedCount(keys) }
            context.prefixMatches[slot].matchedBlocks[endpoint] = count
            context.prefixMatches[slot].weightedBlocks[endpoint] = Double(count)
        }
        context.prefixMatches[slot].requestKeys = keys
    }

    /// Remembers where the prompt goes to be computed.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard let match = context.prefixMatch(by: name.name) else { return }
        let caches = caches.states(of: context)
        for pick in [result.primary.first, result.prefill.first] {
            guard let pick else { continue }
            let capacity = capacity(of: context.loads[pick.index], blockSize: match.blockSize)
            caches[pick.index].blocks.withLock { blocks in
                if blocks.capacity != capacity { blocks.resize(to: capacity) }
                blocks.use(match.requestKeys)
            }
        }
    }

    private func maximumBlocks(of blockSize: Int) -> Int {
        maxPrefixTokens > 0 ? max(1, maxPrefixTokens / max(1, blockSize)) : maxPrefixBlocks
    }

    /// The largest block size of the engines, so that it is the same for every request.
    private func blockSize(for context: SchedulingContext) -> Int {
        guard autoTune else { return blockSizeTokens }
        var size = 0
        for load in context.loads { size = max(size, load.blockSize ?? 0) }
        return size == 0 ? blockSizeTokens : max(Self.minimumBlockSize, size)
    }

    /// As many blocks as the engine's cache has tokens for.
    private func capacity(of load: ServerLoad, blockSize: Int) -> Int {
        guard autoTune, let size = load.blockSize, let count = load.blockCount, size > 0, count > 0
        else { return capacity }
        let (tokens, overflow) = size.multipliedReportingOverflow(by: count)
        return overflow ? capacity : min(max(1, tokens / blockSize), 1 << 24)
    }
}
