public import Configuration
import Core
public import Scheduling

/// `latency-scorer`: by how far the request is expected to stay below its latency objectives.
///
/// Where no latency is predicted the score is the weighted mean of free KV cache, queue and
/// prefix.
public final class LatencyScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "latency-scorer"
    /// Its type and name.
    public let name: PluginName

    private enum Strategy: String, CaseIterable {
        case least
        case most
    }

    /// Who is scored: the best that there is; the others get 0.
    private enum Tier: Int {
        case met
        case missedIdle
        case missedTPOT
        case missedTTFT
        case missedBoth
    }

    private let weights: (ttft: Double, tpot: Double)
    private let strategy: Strategy
    private let composite: (kv: Double, queue: Double, prefix: Double)
    private let producer: String

    /// Parameters: `ttftWeight` (0.8), `tpotWeight` (0.2), `headroomSelectionStrategy` (least:
    /// the nearest to the objective first, or most), `compositeKVWeight`, `compositeQueueWeight`
    /// and `compositePrefixWeight` (1), `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        func weight(
            _ key: String, _ standard: Double, _ source: inout PluginSource
        ) throws(ConfigError) -> Double {
            try source.parameters.optional(key)?.number(in: 0...1e9) ?? standard
        }
        let ttft = try weight("ttftWeight", 0.8, &source)
        let tpot = try weight("tpotWeight", 0.2, &source)
        weights = ttft + tpot > 0 ? (ttft / (ttft + tpot), tpot / (ttft + tpot)) : (1, 0)
        let kv = try weight("compositeKVWeight", 1, &source)
        let queue = try weight("compositeQueueWeight", 1, &source)
        let prefix = try weight("compositePrefixWeight", 1, &source)
        let sum = kv + queue + prefix
        composite = sum > 0 ? (kv / sum, queue / sum, prefix / sum) : (1, 0, 0)
        strategy =
            try source.parameters.optional("headroomSelectionStrategy")?.choice(of: Strategy.self)
            ?? .least
        producer = try source.prefixProducer()
        try source.needs(PredictedLatencyProducer.type)
    }

    /// Scores the best tier that there is.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard candidates.contains(where: { LatencyHeadroom(of: $0, in: context) != nil }) else {
            scoreWithoutPredictions(candidates, in: context, into: &scores)
            return
        }
        var best = Tier.missedBoth
        for candidate in candidates {
            let tier = tier(of: candidate, in: context)
            if tier.rawValue < best.rawValue { best = tier }
        }
        var ttft = Spread()
        var tpot = Spread()
        for candidate in candidates where tier(of: candidate, in: context) == best {
            let headroom = LatencyHeadroom(of: candidate, in: context)
            ttft.add(abs(headroom?.ttft ?? 0))
            tpot.add(abs(headroom?.tpot ?? 0))
        }
        // What all have in common tells nothing.
        let weights =
            switch (ttft.isFlat, tpot.isFlat) {
            case (true, false): (ttft: 0.0, tpot: 1.0)
            case (false, true): (ttft: 1.0, tpot: 0.0)
            default: self.weights
            }
        let prefersMost = best == .met && strategy == .most
        for (i, candidate) in candidates.enumerated()
        where tier(of: candidate, in: context) == best {
            let headroom = LatencyHeadroom(of: candidate, in: context)
            let share =
                weights.ttft * ttft.share(of: abs(headroom?.ttft ?? 0))
                + weights.tpot * tpot.share(of: abs(headroom?.tpot ?? 0))
            // 0.01 sets the last of the tier apart from those outside of it.
            scores[i] = 0.01 + 0.99 * (prefersMost ? share : 1 - share)
        }
    }

    private func tier(of candidate: Int, in context: SchedulingContext) -> Tier {
        guard let headroom = LatencyHeadroom(of: candidate, in: context) else { return .met }
        switch (headroom.ttft < 0, headroom.tpot < 0) {
        case (false, false): return .met
        case _ where context.inFlight[candidate] == 0: return .missedIdle
        case (false, true): return .missedTPOT
        case (true, false): return .missedTTFT
        case (true, true): return .missedBoth
        }
    }

    private func scoreWithoutPredictions(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        let match = context.prefixMatch(by: producer)
        var longest = 0
        for candidate in candidates {
            longest = max(longest, context.loads[candidate].waitingCount)
        }
        for (i, candidate) in candidates.enumerated() {
            let load = context.loads[candidate]
            let queue =
                longest == 0 ? 1 : Double(longest - load.waitingCount) / Double(longest)
            let prefix =
                match.map { Double($0.matchedBlocks[candidate]) / Double($0.totalBlocks) } ?? 0
            scores[i] =
                composite.kv * (1 - load.kvUsage) + composite.queue * queue
                + composite.prefix * prefix
        }
    }
}

/// The range of figures, and where in it one lies.
private struct Spread {
    private var low = Double.infinity
    private var high = -Double.infinity

    var isFlat: Bool { high - low <= 1e-9 }

    mutating func add(_ value: Double) {
        low = min(low, value)
        high = max(high, value)
    }

    func share(of value: Double) -> Double {
        isFlat ? 0.5 : (value - low) / (high - low)
    }
}
