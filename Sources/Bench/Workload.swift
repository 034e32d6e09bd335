/// A trace made ready to send: real prompt tokens, arrival times, and what a perfect cache would
/// have saved.
public struct Workload: Sendable {
    /// A request to send.
    public struct Item: Equatable, Sendable {
        /// Seconds after the start of the replay.
        public var arrival: Double
        /// The prompt.
        public var tokens: [UInt32]
        /// Tokens to generate, at least one.
        public var outputLength: Int
        /// The dialogue that it belongs to.
        public var session: Int
        /// The index of the band that it belongs to, where there are bands.
        public var band = 0
        /// The objective that it names, if it does.
        public var objective: String?
    }

    /// The requests in the order of arrival.
    public let items: [Item]
    /// The factor that input lengths were multiplied with.
    public let scale: Double
    /// The factor that the trace's clock was sped up by.
    public let speedup: Double

    /// Takes requests in the order of arrival.
    init(items: [Item]) {
        self.items = items
        scale = 1
        speedup = 1
    }

    /// Turns a trace into prompts. Token `i` of the block with hash id `h` is a fixed function of
    /// `h` and `i`, so that equal ids give equal tokens and distinct ids distinct ones.
    ///
    /// - Parameters:
    ///   - scale: Multiplies input lengths and the 512 tokens of a trace block; output lengths
    ///     stay.
    ///   - speedup: Divides the trace's time.
    ///   - vocabularySize: Token ids are below it.
    public init(
        _ trace: Trace, scale: Double = 1, speedup: Double = 1, vocabularySize: UInt32 = 128_256
    ) {
        self.scale = scale
        self.speedup = speedup
        let blockTokens = max(1, Int((Double(Trace.blockTokens) * scale).rounded()))
        let start = trace.requests.first?.timestamp ?? 0
        items = zip(trace.requests, trace.sessions).map { request, session in
            let length = max(1, Int((Double(request.inputLength) * scale).rounded()))
            var tokens: [UInt32] = []
            tokens.reserveCapacity(length)
            for hashID in request.hashIDs where tokens.count < length {
                for place in 0..<min(blockTokens, length - tokens.count) {
                    tokens.append(
                        Self.token(hashID: hashID, place: place, below: vocabularySize))
                }
            }
            return Item(
                arrival: (request.timestamp - start) / 1000 / speedup, tokens: tokens,
                outputLength: max(1, request.outputLength), session: session)
        }
    }

    /// The mixing function of SplitMix64 (Steele, Lea, Flood 2014) over id and place.
    private static func token(hashID: Int, place: Int, below bound: UInt32) -> UInt32 {
        var mixed = UInt64(bitPattern: Int64(hashID)) &* 0x9e37_79b9_7f4a_7c15 &+ UInt64(place)
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        mixed ^= mixed >> 31
        return UInt32(truncatingIfNeeded: ((mixed >> 32) &* UInt64(bound)) >> 32)
    }

    /// The part of all prompt tokens that one infinite cache would not have computed: full blocks
    /// of `blockSize` tokens that an earlier prompt began with, at least one token of every
    /// prompt computed, as vLLM counts it.
    public func idealHitRatio(blockSize: Int) -> Double {
        var seen: Set<UInt64> = []
        var hits = 0
        var total = 0
        for item in items {
            var chain: UInt64 = 0xcbf2_9ce4_8422_2325
            var cached = 0
            var matching = true
            for block in 0..<(item.tokens.count / blockSize) {
                for token in item.tokens[(block * blockSize)..<((block + 1) * blockSize)] {
                    chain = (chain ^ UInt64(token)) &* 0x0000_0100_0000_01b3
                    chain ^= chain >> 29
                }
                if seen.insert(chain).inserted {
                    matching = false
                } else if matching {
                    cached += blockSize
                }
            }
            // An engine must run the last token to have its logits.
            let reusable = (item.tokens.count - 1) / blockSize * blockSize
            hits += min(cached, reusable)
            total += item.tokens.count
        }
        return total == 0 ? 0 : Double(hits) / Double(total)
    }
}
