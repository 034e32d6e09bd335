public import Configuration
public import Scheduling

/// `prefill-cost-scorer`: the endpoint where the prompt is computed soonest first.
///
/// The cost of an endpoint is the prompt tokens that it has yet to compute for others, and those
/// of this prompt that it does not hold. Its score is (least + 1) / (cost + 1): an endpoint with
/// twice the wait of the best has half its score. Cached prefix and load are in one unit, tokens,
/// so that no weight has to be found between them.
public final class PrefillCostScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "prefill-cost-scorer"
    /// Its type and name.
    public let name: PluginName

    private let producer: String

    /// Parameters: `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        producer = try source.plugin(
            "prefixMatchInfoProducerName", default: PrefixCacheScorer.standardProducer,
            as: (any DataProducer).self, called: "data producer"
        ).name.name
    }

    /// Scores by this router's own count of tokens in flight and the producer's match.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        var least = Int.max
        for candidate in candidates { least = min(least, cost(of: candidate, in: context)) }
        for (i, candidate) in candidates.enumerated() {
            scores[i] = Double(least + 1) / Double(cost(of: candidate, in: context) + 1)
        }
    }

    private func cost(of candidate: Int, in context: SchedulingContext) -> Int {
        context.prefillTokensInFlight[candidate]
            + context.uncachedTokenCount(at: candidate, by: producer)
    }
}
