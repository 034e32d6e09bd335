import Configuration
import Core
public import Scheduling
import Synchronization

/// Knows how fast KV blocks move between endpoints, because it measures. None comes with this
/// room.
public protocol LinkBandwidths: Plugin {
    /// Bytes per second from one endpoint to another, both indices into `context.endpoints`; nil
    /// if it does not know.
    func bytesPerSecond(from source: Int, to destination: Int, in context: SchedulingContext)
        -> Double?
}

/// What it costs to have a prompt computed at one endpoint and decoded at another, in the unit of
/// scores:
///
///     cost(d, p) = costPerSecond * kvBytesPerToken * uncached(d) / bandwidth(p, d)
///
/// uncached(d) is the tokens of the prompt that the decode endpoint does not hold, so that blocks
/// that are there need not move. An endpoint that does both moves nothing: cost(d, d) = 0.
/// The bandwidth is what a ``LinkBandwidths`` plugin measured, else that of the first of `links`
/// whose label has the same value at both endpoints, else `elseBytesPerSecond`.
final class TransferCost: Sendable {
    /// A label that endpoints share, and how fast blocks move between those that do.
    private struct Link {
        var label: String
        var bytesPerSecond: Double
    }

    /// The values of the links' labels as numbers; 0: the endpoint has no such label.
    private struct Places {
        var poolGeneration: Int?
        /// Those of all endpoints for the first link, then those for the second.
        var values: [UInt32] = []
    }

    private static let standardLinks = [
        Link(label: "kubernetes.io/hostname", bytesPerSecond: 50e9),
        Link(label: "topology.kubernetes.io/zone", bytesPerSecond: 12.5e9),
    ]

    private let kvBytesPerToken: Double
    private let costPerSecond: Double
    private let links: [Link]
    private let elseBytesPerSecond: Double
    private let measured: (any LinkBandwidths)?
    private let producer: String
    private let latest = Mutex<Places?>(nil)

    /// Parameters of `transfer`: `kvBytesPerToken` (131072), `costPerSecond` (1), `links`, a list
    /// of `label` and `bytesPerSecond`, the nearest first (kubernetes.io/hostname 5e10,
    /// topology.kubernetes.io/zone 1.25e10), `elseBytesPerSecond` (1.25e9), `linkBandwidthsName`
    /// (none).
    init(_ value: ConfigValue, _ source: inout PluginSource) throws(ConfigError) {
        let measured: ConfigValue?
        (kvBytesPerToken, costPerSecond, links, elseBytesPerSecond, measured) = try value.section {
            (section) throws(ConfigError) in
            (
                try section.optional("kvBytesPerToken")?.number(in: 1...1e9) ?? 131_072,
                try section.optional("costPerSecond")?.number(in: 0...1e9) ?? 1,
                try section.optional("links").map { (value) throws(ConfigError) in
                    try Self.links(value)
                } ?? Self.standardLinks,
                try section.optional("elseBytesPerSecond")?.number(in: 1...1e15) ?? 1.25e9,
                section.optional("linkBandwidthsName")
            )
        }
        self.measured = try measured.map { (name) throws(ConfigError) in
            try source.plugin(
                name, as: (any LinkBandwidths).self, called: "plugin that measures bandwidths")
        }
        producer = try source.prefixProducer()
    }

    private static func links(_ value: ConfigValue) throws(ConfigError) -> [Link] {
        var links: [Link] = []
        for entry in try value.list() {
            try entry.section { (section) throws(ConfigError) in
                let label = try section.required("label")
                let name = try label.string()
                guard !links.contains(where: { $0.label == name }) else {
                    throw label.error("names '\(name)' a second time")
                }
                links.append(
                    Link(
                        label: name,
                        bytesPerSecond: try section.required("bytesPerSecond").number(in: 1...1e15)
                    ))
            }
        }
        return links
    }

    /// For each of `decode`, its score and the best that a prefill endpoint adds to it:
    /// value(d) = score(d) + max over p of (score(p) - cost(d, p)). `prefill` is not empty.
    func values(
        ofDecode decode: [ScoredCandidate], with prefill: [ScoredCandidate],
        in context: SchedulingContext
    ) -> [ScoredCandidate] {
        let values = placeValues(of: context)
        return decode.map { decode in
            var best = -Double.infinity
            let bytes = bytes(to: decode.index, in: context)
            for prefill in prefill {
                let cost = cost(bytes, decode.index, prefill.index, values, context)
                best = max(best, prefill.score - cost)
            }
            return ScoredCandidate(index: decode.index, score: decode.score + best)
        }
    }

    /// For each of `prefill` what it adds to the decode endpoint: score(p) - cost(d, p).
    func values(
        ofPrefill prefill: [ScoredCandidate], for decode: Int, in context: SchedulingContext
    ) -> [ScoredCandidate] {
        let values = placeValues(of: context)
        let bytes = bytes(to: decode, in: context)
        return prefill.map {
            ScoredCandidate(
                index: $0.index, score: $0.score - cost(bytes, decode, $0.index, values, context))
        }
    }

    private func bytes(to decode: Int, in context: SchedulingContext) -> Double {
        kvBytesPerToken * Double(context.uncachedTokenCount(at: decode, by: producer))
    }

    private func cost(
        _ bytes: Double, _ decode: Int, _ prefill: Int, _ values: [UInt32],
        _ context: SchedulingContext
    ) -> Double {
        guard decode != prefill else { return 0 }
        if let measured = measured?.bytesPerSecond(from: prefill, to: decode, in: context),
            measured > 0
        {
            return costPerSecond * bytes / measured
        }
        let count = context.endpoints.count
        for (number, link) in links.enumerated() {
            let value = values[number * count + decode]
            if value != 0, value == values[number * count + prefill] {
                return costPerSecond * bytes / link.bytesPerSecond
            }
        }
        return costPerSecond * bytes / elseBytesPerSecond
    }

    /// Labels are compared once for each pool, not for each pair.
    private func placeValues(of context: SchedulingContext) -> [UInt32] {
        if let generation = context.poolGeneration, let known = latest.withLock(\.self),
            known.poolGeneration == generation
        {
            return known.values
        }
        var places = Places(poolGeneration: context.poolGeneration)
        places.values.reserveCapacity(links.count * context.endpoints.count)
        for link in links {
            var numbers: [String: UInt32] = [:]
            for endpoint in context.endpoints {
                guard let text = endpoint.server.labels[link.label], !text.isEmpty else {
                    places.values.append(0)
                    continue
                }
                let number = numbers[text] ?? UInt32(numbers.count + 1)
                numbers[text] = number
                places.values.append(number)
            }
        }
        if context.poolGeneration != nil { latest.withLock { [places] in $0 = places } }
        return places.values
    }
}
