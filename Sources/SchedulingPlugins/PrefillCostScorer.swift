public import Configuration
public import Scheduling

/// `prefill-cost-scorer`: the endpoint where the prompt is computed soonest first.
///
/// The cost of an endpoint is the prompt tokens that it has yet to compute for others, and those
/// of this prompt that it does not hold. What routers sent there that do not tell of their load is
/// known by its number of requests alone; each counts as many tokens as those of which more is
/// known have on average, or as this prompt if there are none. Its score is (least + 1) / (cost + 1): an endpoint with
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

    /// Scores by the count of tokens in flight, what was scraped of others, and the
    /// producer's match.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        let tokensPerRequest = Self.tokensPerRequest(at: candidates, in: context)
        var least = Int.max
        for candidate in candidates {
            least = min(least, cost(of: candidate, in: context, tokensPerRequest))
        }
        for (i, candidate) in candidates.enumerated() {
            let cost = cost(of: candidate, in: context, tokensPerRequest)
            scores[i] = Double(least + 1) / Double(cost + 1)
        }
    }

    private func cost(
        of candidate: Int, in context: SchedulingContext, _ tokensPerRequest: Int
    ) -> Int {
        let others = context.othersInFlight.isEmpty ? 0 : context.othersInFlight[candidate]
        return context.prefillTokensInFlight[candidate] + others * tokensPerRequest
            + context.uncachedTokenCount(at: candidate, by: producer)
    }

    /// The tokens to compute of a request in flight, those that generate already among them.
    private static func tokensPerRequest(
        at candidates: [Int], in context: SchedulingContext
    ) -> Int {
        var tokens = 0
        var requests = 0
        for candidate in candidates {
            tokens += context.prefillTokensInFlight[candidate]
            requests += context.inFlight[candidate]
        }
        return requests == 0 ? context.request.promptTokenCount : tokens / requests
    }
}
