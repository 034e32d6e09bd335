public import Configuration
public import Scheduling

/// `prefix-based-pd-decider`: disaggregates if enough of the prompt is not cached where it will
/// be decoded: prompt >= promptTokens and prompt - matched >= nonCachedTokens.
public final class PrefixBasedPDDecider: PDDecider, ConfigurablePlugin {
    /// The type's name.
    public static let type = "prefix-based-pd-decider"
    /// Its type and name.
    public let name: PluginName

    private let nonCachedTokens: Int
    private let promptTokens: Int
    private let producer: String

    /// Parameters: `nonCachedTokens` (0: never disaggregate), `promptTokens` (0),
    /// `prefixMatchInfoProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        nonCachedTokens =
            try source.parameters.optional("nonCachedTokens")?.integer(in: 0 ... .max) ?? 0
        promptTokens =
            try source.parameters.optional("promptTokens")?.integer(in: 0 ... .max) ?? 0
        producer = try source.plugin(
            "prefixMatchInfoProducerName", default: PrefixCacheScorer.standardProducer,
            as: (any DataProducer).self, called: "data producer"
        ).name.name
    }

    /// A prompt of which no match is known counts as not cached.
    public func disaggregates(decode: Int, in context: SchedulingContext) -> Bool {
        let prompt = context.request.promptTokenCount
        guard nonCachedTokens > 0, prompt >= promptTokens else { return false }
        return context.uncachedTokenCount(at: decode, by: producer) >= nonCachedTokens
    }
}
