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
    fileprivate let values: SIMD4<Double>

    /// llm-d's weights: 1 for GPU, 0.8 for CPU memory; 0.6 and 0.4 for what it does not know.
    public static let standard = TierWeights(gpu: 1, cpu: 0.8, disk: 0.6, remote: 0.4)

    /// Weights from 0 to 1.
    public init(gpu: Double, cpu: Double, disk: Double, remote: Double) {
        values = SIMD4(gpu, cpu, disk, remote)
    }
}

/// The result of a lookup: the match of every endpoint. Made once and used for many lookups, it
/// comes to allocate nothing.
public struct PrefixMatches: Sendable {
    /// The number of blocks that were looked up.
    public private(set) var blockCount = 0
    /// The endpoints that hold the first block.
    public var endpoints: some Collection<EndpointHandle> {
        matched.lazy.map(EndpointHandle.init(index:))
    }

    private var counts: [SIMD4<UInt32>] = []
    private var matched: [UInt16] = []
    /// Endpoints that match all blocks so far, while the walk lists them.
    var alive: [UInt16] = []
    /// The same as bits, while the walk meets only blocks with sets.
    var aliveBits: [UInt64] = []

    /// No matches.
    public init() {}

    /// The match of an endpoint; empty for one that the index does not know.
    public subscript(endpoint: EndpointHandle) -> PrefixMatch {
        let index = Int(endpoint.index)
        return PrefixMatch(countsByTier: index < counts.count ? counts[index] : .zero)
    }

    mutating func reset(blockCount: Int, endpointLimit: Int) {
        for index in matched { counts[Int(index)] = .zero }
        matched.removeAll(keepingCapacity: true)
        alive.removeAll(keepingCapacity: true)
        if counts.count < endpointLimit {
            counts.append(
                contentsOf: repeatElement(.zero, count: endpointLimit - counts.count))
        }
        self.blockCount = blockCount
    }

    mutating func begin(_ endpoint: Int) { matched.append(UInt16(endpoint)) }

    mutating func count(_ endpoint: Int, tier: Int) { counts[endpoint][tier] &+= 1 }

    /// The endpoint matched `length` blocks: those not counted by their tier lie in the GPU's.
    mutating func countRest(_ endpoint: Int, length: Int) {
        counts[endpoint][0] &+= UInt32(length) &- counts[endpoint].wrappedSum()
    }
}
