public import Core

/// How many blocks of a prompt an endpoint holds without a gap from its start, by the fastest tier
/// that each lies in.
public struct PrefixMatch: Equatable, Sendable {
    package let countsByTier: SIMD4<UInt32>

    /// All blocks of the match.
    public var blockCount: Int { Int(countsByTier.wrappedSum()) }

    /// The blocks of the match whose fastest tier is this one.
    public func blockCount(in tier: Tier) -> Int { Int(countsByTier[Int(tier.rawValue)]) }

    /// The sum of the blocks, each times the weight of its tier.
    public func weighted(by weights: TierWeights) -> Double {
        (SIMD4<Double>(countsByTier) * weights.values).sum()
    }
}

/// What a block is worth by the tier that it lies in.
public struct TierWeights: Equatable, Sendable {
    fileprivate var values: SIMD4<Double>

    /// llm-d's weights: 1 for GPU, 0.8 for CPU memory; 0.6 and 0.4 for what it does not know.
    public static let standard = TierWeights(gpu: 1, cpu: 0.8, disk: 0.6, remote: 0.4)

    /// Weights from 0 to 1.
    public init(gpu: Double, cpu: Double, disk: Double, remote: Double) {
        values = SIMD4(gpu, cpu, disk, remote)
    }

    /// The weight of a tier.
    public subscript(tier: Tier) -> Double {
        get { values[Int(tier.rawValue)] }
        set { values[Int(tier.rawValue)] = newValue }
    }
}

/// The result of a lookup: the match of every endpoint. Made once and used for many lookups, it
/// comes to allocate nothing.
public struct PrefixMatches: Sendable {
    /// The number of blocks that were looked up.
    public private(set) var blockCount = 0
    /// The endpoints that hold the first block.
    public var endpoints: some Collection<EndpointHandle> {
        matched.prefix(matchedCount).lazy.map(EndpointHandle.init(index:))
    }

    /// Four per endpoint.
    private var counts: [UInt32] = []
    private var matched: [UInt16] = []
    private var matchedCount = 0
    private var words: [UInt64] = []

    /// No matches.
    public init() {}

    /// The match of an endpoint; empty for one that the index does not know.
    public subscript(endpoint: EndpointHandle) -> PrefixMatch {
        let first = Int(endpoint.index) * Self.tierCount
        guard first < counts.count else { return PrefixMatch(countsByTier: .zero) }
        return PrefixMatch(
            countsByTier: SIMD4(
                counts[first], counts[first + 1], counts[first + 2], counts[first + 3]))
    }

    private static let tierCount = Tier.allCases.count

    /// Looks `keys` up; endpoints from `endpointLimit` on are not seen.
    mutating func find(
        _ keys: UnsafeBufferPointer<UInt64>, in tables: BlockTables, endpointLimit: Int
    ) {
        for endpoint in matched.prefix(matchedCount) {
            for tier in 0..<Self.tierCount { counts[Int(endpoint) * Self.tierCount + tier] = 0 }
        }
        let limit = max((endpointLimit + 63) / 64, 1) * 64
        if matched.count < limit {
            counts = Array(repeating: 0, count: limit * Self.tierCount)
            matched = Array(repeating: 0, count: limit)
            words = Array(repeating: 0, count: (1 + Self.tierCount) * limit / 64)
        }
        blockCount = keys.count
        let room = matched.count
        matchedCount = counts.withUnsafeMutableBufferPointer { counts in
            matched.withUnsafeMutableBufferPointer { matched in
                words.withUnsafeMutableBufferPointer { words in
                    guard let counts = counts.baseAddress, let matched = matched.baseAddress,
                        let words = words.baseAddress
                    else { return 0 }
                    return tables.match(
                        keys, counts: counts, matched: matched, words: words, limit: room)
                }
            }
        }
    }
}
