public import Configuration
public import Core
public import Scheduling
import Synchronization

/// `no-hit-lru-scorer`: spreads prompts that nobody holds: the endpoint that got such a prompt
/// the longest ago first. A prompt that somebody holds is 0.5 everywhere.
public final class NoHitLRUScorer: Scorer, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "no-hit-lru-scorer"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? {
        "the order in which endpoints got prompts that nobody held"
    }

    private struct Uses {
        var clock = 0
        var lastByEndpoint: [UInt32: Int] = [:]
    }

    private let lruSize: Int
    private let producer: String
    private let uses = Mutex(Uses())

    /// Parameters: `lruSize` (1024 endpoints), `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        lruSize = try source.parameters.optional("lruSize")?.integer(in: 1...1 << 20) ?? 1024
        producer = try source.prefixProducer()
    }

    /// 1 - rank / (n - 1); endpoints that never got one share the first rank.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard isCold(context), candidates.count > 1 else {
            let score = isCold(context) ? 1 : 0.5
            for i in candidates.indices { scores[i] = score }
            return
        }
        let last = uses.withLock(\.lastByEndpoint)
        let stamps = candidates.map { last[context.endpoints[$0].id] ?? 0 }
        for (i, stamp) in stamps.enumerated() {
            let rank = stamps.count { $0 < stamp }
            scores[i] = 1 - Double(rank) / Double(candidates.count - 1)
        }
    }

    /// Remembers who gets a prompt that nobody holds.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard isCold(context) else { return }
        uses.withLock { uses in
            for pick in [result.primary.first, result.prefill.first] {
                guard let pick else { continue }
                uses.clock += 1
                uses.lastByEndpoint[context.endpoints[pick.index].id] = uses.clock
            }
            while uses.lastByEndpoint.count > lruSize,
                let oldest = uses.lastByEndpoint.min(by: { $0.value < $1.value })
            {
                uses.lastByEndpoint[oldest.key] = nil
            }
        }
    }

    private func isCold(_ context: SchedulingContext) -> Bool {
        guard let match = context.prefixMatch(by: producer) else { return true }
        return !match.matchedBlocks.contains { $0 > 0 }
    }
}
