public import Configuration
public import Core
public import Scheduling

/// `p2p-source-producer`: names an endpoint that holds more of the prompt than the one that will
/// compute it, in the header `x-kv-cache-source-host-port`, so that the blocks can be pulled.
///
/// Among those that hold the most, one block more or less, an endpoint is drawn with weight
/// 1 / (1 + its queue).
public final class P2PSourceProducer: PreRequest, ConfigurablePlugin {
    /// The type's name.
    public static let type = "p2p-source-producer"
    /// Names the endpoint: `host:port`.
    public static let header = "x-kv-cache-source-host-port"
    /// Its type and name.
    public let name: PluginName

    private let producer: String
    private let minCachedTokenDelta: Int

    /// Parameters: `prefixMatchInfoProducerName`, `minCachedTokenDelta` (1), `prefillProfileName`
    /// (prefill; known from the profile handler).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        minCachedTokenDelta =
            try source.parameters.optional("minCachedTokenDelta")?.integer(in: 1 ... .max) ?? 1
        _ = try source.parameters.optional("prefillProfileName")?.string()
        producer = try source.prefixProducer()
    }

    /// Sets the header, or removes one that the client made up.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        let computing = (result.prefill.first ?? result.primary[0]).index
        guard let match = context.prefixMatch(by: producer),
            let source = source(match, in: context), source != computing,
            (match.matchedBlocks[source] - match.matchedBlocks[computing]) * match.blockSize
                >= minCachedTokenDelta
        else {
            headers.append(.remove(name: Self.header))
            return
        }
        headers.append(.set(name: Self.header, value: context.endpoints[source].address))
    }

    private func source(_ match: PrefixCacheMatch, in context: SchedulingContext) -> Int? {
        let most = match.matchedBlocks.max() ?? 0
        guard most > 0 else { return nil }
        var sum = 0.0
        var source: Int?
        var random = context.random(salt: name.name)
        for (index, count) in match.matchedBlocks.enumerated() where count >= max(1, most - 1) {
            let weight = 1 / Double(1 + context.loads[index].waitingCount)
            sum += weight
            // The chosen one so far gives way with the share of the next (weighted reservoir).
            if Double.random(in: 0..<sum, using: &random) < weight { source = index }
        }
        return source
    }
}
