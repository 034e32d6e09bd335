public import Configuration
public import Scheduling

/// `prefix-cache-affinity-filter`: the endpoints that hold most of the prompt, unless they are so
/// busy that it would be computed sooner elsewhere.
public final class PrefixCacheAffinityFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "prefix-cache-affinity-filter"
    /// Its type and name.
    public let name: PluginName

    private enum TTFTSource: String, CaseIterable {
        case prefillThroughput
        case latencyPredictor
    }

    private let affinityThreshold: Double
    private let explorationProbability: Double
    private let maxTTFTPenaltyMs: Double
    private let peakPrefillThroughput: Double
    private let ttftSource: TTFTSource
    private let producer: String

    /// Parameters: `affinityThreshold` (0.8 of the prompt's blocks), `explorationProbability`
    /// (0), `maxTTFTPenaltyMs` (18000; 0: stick whatever it costs), `ttftSource`
    /// (prefillThroughput, or latencyPredictor), `peakPrefillThroughput` (15928 tokens per
    /// second), `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        affinityThreshold =
            try source.parameters.optional("affinityThreshold")?.number(in: 0...1) ?? 0.8
        explorationProbability =
            try source.parameters.optional("explorationProbability")?.number(in: 0...1) ?? 0
        maxTTFTPenaltyMs =
            try source.parameters.optional("maxTTFTPenaltyMs")?.number(in: 0...1e9) ?? 18_000
        peakPrefillThroughput =
            try source.parameters.optional("peakPrefillThroughput")?.number(in: 1...1e12) ?? 15_928
        ttftSource =
            try source.parameters.optional("ttftSource")?.choice(of: TTFTSource.self)
            ?? .prefillThroughput
        producer = try source.prefixProducer()
        if ttftSource == .latencyPredictor { try source.needs(PredictedLatencyProducer.type) }
    }

    /// Keeps all if none holds enough, if it draws to explore, or if those are too busy.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        guard let match = context.prefixMatch(by: producer) else { return }
        let enough = affinityThreshold * Double(match.totalBlocks)
        func holdsEnough(_ candidate: Int) -> Bool {
            Double(match.matchedBlocks[candidate]) >= enough
        }
        guard candidates.contains(where: holdsEnough) else { return }
        if explorationProbability > 0 {
            var random = context.random(salt: name.name)
            if Double.random(in: 0..<1, using: &random) < explorationProbability { return }
        }
        if maxTTFTPenaltyMs > 0 {
            var sticky = Double.infinity
            var other = Double.infinity
            for candidate in candidates {
                let ttft = ttft(of: candidate, in: context)
                if holdsEnough(candidate) {
                    sticky = min(sticky, ttft)
                } else {
                    other = min(other, ttft)
                }
            }
            if sticky - other > maxTTFTPenaltyMs { return }
        }
        candidates.removeAll { !holdsEnough($0) }
    }

    /// Milliseconds; without a prediction by what is in flight.
    private func ttft(of candidate: Int, in context: SchedulingContext) -> Double {
        if ttftSource == .latencyPredictor, !context.predictions.isEmpty,
            let prediction = context.predictions[candidate]
        {
            return prediction.ttftMilliseconds
        }
        return Double(context.tokensInFlight(at: candidate)) / peakPrefillThroughput * 1000
    }
}
