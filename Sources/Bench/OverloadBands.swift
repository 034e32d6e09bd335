/// A share of an overload: requests of one priority.
public struct OverloadBand: Equatable, Sendable {
    /// What it is called, and the objective that its requests name.
    public var name: String
    /// The priority of that objective; below 0 the requests may be shed.
    public var priority: Int
    /// How many come, as a part of what the pool can serve.
    public var share: Double

    /// Makes a band.
    public init(name: String, priority: Int, share: Double) {
        self.name = name
        self.priority = priority
        self.share = share
    }

    /// Three bands that are `overload` times what the pool can serve. What matters fits into it;
    /// what may be shed is the rest.
    public static func three(overload: Double, high: Double, normal: Double) -> [OverloadBand] {
        [
            OverloadBand(name: "high", priority: 10, share: high),
            OverloadBand(name: "normal", priority: 0, share: normal),
            OverloadBand(name: "sheddable", priority: -1, share: overload - high - normal),
        ]
    }
}

extension Workload {
    /// Requests of bands, each with Poisson arrivals of its own, the same for the same seed. No
    /// two prompts have a prefix in common, so that every token is computed.
    ///
    /// - Parameters:
    ///   - bands: Who sends; the order of the bands is that of ``Item/band``.
    ///   - capacity: The requests per second that a share of 1 stands for.
    ///   - seconds: For how long requests arrive.
    public init(
        bands: [OverloadBand], capacity: Double, seconds: Double, promptTokens: Int,
        outputTokens: Int, seed: UInt64
    ) {
        var random = SplitMix64(state: seed)
        var arrivals: [(time: Double, band: Int)] = []
        for (index, band) in bands.enumerated() where band.share > 0 {
            var time = 0.0
            while true {
                time -= random.unit().logarithm / (band.share * capacity)
                guard time < seconds else { break }
                arrivals.append((time, index))
            }
        }
        arrivals.sort { $0.time < $1.time }
        self.init(
            items: arrivals.enumerated().map { index, arrival in
                Item(
                    arrival: arrival.time,
                    tokens: random.prompt(length: promptTokens),
                    outputLength: outputTokens, session: index, band: arrival.band,
                    objective: bands[arrival.band].name)
            })
    }
}

extension SplitMix64 {
    /// A prompt that is like no other, of tokens that every usual vocabulary has.
    mutating func prompt(length: Int) -> [UInt32] {
        (0..<length).map { _ in UInt32(below(30_000)) }
    }
}
