public import Configuration
public import Core
public import Scheduling
import Synchronization

/// `burst-prefix-cache-producer`: sends equal prompts that come at the same time, such as the
/// samples of one prompt in reinforcement learning, where the first one went, so that the prompt
/// is computed once.
///
/// Upstream holds every request for the time of the window and places them together. Here nobody
/// waits: the first goes where the other scorers want it, and those that follow within the window
/// match in full there.
public final class BurstPrefixCacheProducer: PromptFollower, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "burst-prefix-cache-producer"
    /// Its type and name.
    public let name: PluginName

    private struct Burst {
        var endpoint: UInt32
        var count: Int
        var lastAt: MonotonicTime
    }

    /// Bursts at the same time; more are not known apart from single requests.
    private static let maximumBursts = 16384
    private static let maximumBlocks = 2048

    private let window: Duration
    private let maxPerReplica: Int
    private let blockSizeTokens: Int
    private let maximumBlocks: Int
    private let bursts = Mutex<[UInt64: Burst]>([:])

    /// Parameters: `windowDurationMs` (100), `maxPerReplica` (-1: no limit), `blockSizeTokens`
    /// (64), `maxPrefixTokensToMatch` (0: 2048 blocks), `balanceBy` (requests, or tokens; the
    /// other scorers balance).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        enum Balance: String, CaseIterable {
            case requests
            case tokens
        }
        name = source.name
        window = .milliseconds(
            try source.parameters.optional("windowDurationMs")?.integer(in: 1...60_000) ?? 100)
        let limit =
            try source.parameters.optional("maxPerReplica")?.integer(in: -1...Int.max) ?? -1
        maxPerReplica = limit < 1 ? .max : limit
        blockSizeTokens =
            try source.parameters.optional("blockSizeTokens")?.integer(in: 1...65536) ?? 64
        let tokens =
            try source.parameters.optional("maxPrefixTokensToMatch")?.integer(in: 0...1 << 24) ?? 0
        maximumBlocks = tokens == 0 ? Self.maximumBlocks : max(1, tokens / blockSizeTokens)
        _ = try source.parameters.optional("balanceBy")?.choice(of: Balance.self)
    }

    /// Hashes the contents of blocks.
    public func follow(_ beginning: PromptBeginning) -> (any PromptWork)? {
        PromptKeys(of: beginning, blockSize: blockSizeTokens, maximumBlocks: maximumBlocks)
    }

    /// A full match where the burst goes, nothing elsewhere.
    public func produce(into context: inout SchedulingContext) {
        let keys = PromptKeys.keys(
            of: context.request, for: name.name, blockSize: blockSizeTokens,
            maximumBlocks: maximumBlocks)
        guard let last = keys.last else { return }
        let slot = context.resetPrefixMatch(by: name.name, blockSize: blockSizeTokens)
        context.prefixMatches[slot].totalBlocks = keys.count
        context.prefixMatches[slot].requestKeys = keys
        let burst = bursts.withLock { $0[last] }
        guard let burst, context.now - burst.lastAt <= window, burst.count < maxPerReplica,
            let index = context.endpoints.firstIndex(where: { $0.id == burst.endpoint })
        else { return }
        context.prefixMatches[slot].matchedBlocks[index] = keys.count
        context.prefixMatches[slot].weightedBlocks[index] = Double(keys.count)
    }

    /// Remembers where the burst goes: who computes the prompt.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard let last = context.prefixMatch(by: name.name)?.requestKeys.last else { return }
        let pick = result.prefill.first ?? result.primary[0]
        let endpoint = context.endpoints[pick.index].id
        bursts.withLock { bursts in
            if bursts.count >= Self.maximumBursts {
                bursts = bursts.filter { context.now - $0.value.lastAt <= window }
            }
            if let burst = bursts[last], burst.endpoint == endpoint,
                context.now - burst.lastAt <= window
            {
                bursts[last]?.count += 1
                bursts[last]?.lastAt = context.now
            } else if bursts.count < Self.maximumBursts || bursts[last] != nil {
                bursts[last] = Burst(endpoint: endpoint, count: 1, lastAt: context.now)
            }
        }
    }
}
