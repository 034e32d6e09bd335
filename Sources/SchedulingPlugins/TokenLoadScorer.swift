public import Configuration
public import Scheduling

/// `token-load-scorer`: fewest prompt tokens in flight first, 1 - min(1, tokens / threshold).
public final class TokenLoadScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "token-load-scorer"
    /// Its type and name.
    public let name: PluginName

    private let threshold: Double

    /// Parameters: `queueThresholdTokens` (4194304).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        threshold = Double(
            try source.parameters.optional("queueThresholdTokens")?.integer(in: 1 ... .max)
                ?? 4_194_304)
    }

    /// Scores by the count of tokens.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        for (i, candidate) in candidates.enumerated() {
            let tokens = Double(context.prefillTokensInFlight[candidate])
            scores[i] = 1 - min(1, tokens / threshold)
        }
    }
}
