public import Configuration
public import Core
public import Scheduling
import Synchronization

/// `mm-embeddings-cache-producer`: guesses which endpoint has encoded which images, videos and
/// audio clips from where this router sent them before.
public final class MMEmbeddingsCacheProducer: DataProducer, PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "mm-embeddings-cache-producer"
    /// Its type and name.
    public let name: PluginName
    /// The items.
    public var promptNeeds: PromptNeeds { .media }

    /// What an item takes in an engine's cache, in MiB.
    private static let itemMebibytes = 2

    private final class Cache: Sendable {
        let items: Mutex<PrefixLRU>
        init(capacity: Int) { items = Mutex(PrefixLRU(capacity: capacity)) }
    }

    private let caches: PerEndpoint<Cache>

    /// Parameters: `cacheSizeInMBPerServer` (4096; 2 MiB for each item).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        let size =
            try source.parameters.optional("cacheSizeInMBPerServer")?.integer(in: 1...1 << 24)
            ?? 4096
        let capacity = max(1, size / Self.itemMebibytes)
        caches = PerEndpoint { Cache(capacity: capacity) }
    }

    /// Matches the items against what endpoints were sent before.
    public func produce(into context: inout SchedulingContext) {
        guard !context.request.media.isEmpty else { return }
        let media = context.request.media
        let slot = context.resetMediaMatch(by: name.name)
        context.mediaMatches[slot].totalSize = media.reduce(0) { $0 + $1.size }
        for (endpoint, cache) in caches.states(of: context).enumerated() {
            context.mediaMatches[slot].matchedSizes[endpoint] = cache.items.withLock { items in
                media.reduce(0) { $0 + (items.contains($1.identifier) ? $1.size : 0) }
            }
        }
    }

    /// Remembers where the items go to be encoded.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard !context.request.media.isEmpty else { return }
        let identifiers = context.request.media.map(\.identifier)
        let caches = caches.states(of: context)
        // Who computes the prompt encodes what nobody else does.
        let computing = result.prefill.first ?? result.primary[0]
        for pick in result.encode.isEmpty ? [computing] : result.encode {
            caches[pick.index].items.withLock { $0.use(identifiers) }
        }
    }
}
