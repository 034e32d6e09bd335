public import Configuration
public import Scheduling

/// `mm-embeddings-cache-scorer`: most of the request's media encoded before first, the sizes of
/// the items that match over those of all.
public final class MMEmbeddingsCacheScorer: Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "mm-embeddings-cache-scorer"
    /// Its type and name.
    public let name: PluginName

    private let producer: String

    /// Parameters: `mmEmbeddingsCacheProducerName`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        producer = try source.plugin(
            "mmEmbeddingsCacheProducerName", default: MMEmbeddingsCacheProducer.type,
            as: (any DataProducer).self, called: "data producer"
        ).name.name
    }

    /// All 0 for a request without media.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let match = context.mediaMatch(by: producer) else { return }
        for (i, candidate) in candidates.enumerated() {
            scores[i] = Double(match.matchedSizes[candidate]) / Double(match.totalSize)
        }
    }
}
