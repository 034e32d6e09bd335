/// Workloads of the kinds that production traces show, for machines without a trace file.
public enum SyntheticTrace: String, CaseIterable, Sendable {
    /// Chats with a shared system prompt; each turn repeats the whole dialogue so far.
    case conversation
    /// Tool-using agents: long shared instructions, many quick turns that grow a little.
    case agent
    /// Questions over a set of documents whose popularity follows Zipf's law.
    case rag

    /// Makes a trace of `count` requests at a mean of `perSecond` arrivals (Poisson), the same for
    /// the same seed.
    public func trace(count: Int, seed: UInt64, perSecond: Double = 3) -> Trace {
        var random = SplitMix64(state: seed)
        var nextID = 0
        func freshIDs(_ count: Int) -> [Int] {
            defer { nextID += count }
            return Array(nextID..<(nextID + count))
        }
        let shared = (0..<4).map { _ in freshIDs(self == .agent ? 12 : 3) }
        let documents = (0..<200).map { _ in freshIDs(4 + random.below(12)) }
        var dialogues: [[Int]] = []
        var time = 0.0
        var requests: [TraceRequest] = []
        for _ in 0..<count {
            time += -random.unit().logarithm / perSecond * 1000
            let ids: [Int]
            let output: Int
            switch self {
            case .conversation, .agent:
                let continueProbability = self == .agent ? 0.9 : 0.6
                if !dialogues.isEmpty, random.unit() < continueProbability {
                    let which = random.below(dialogues.count)
                    dialogues[which] += freshIDs(1 + random.below(self == .agent ? 2 : 4))
                    ids = dialogues[which]
                    if ids.count > 128 { dialogues.remove(at: which) }
                } else {
                    ids = shared[random.below(shared.count)] + freshIDs(1 + random.below(6))
                    dialogues.append(ids)
                    if dialogues.count > 64 { dialogues.removeFirst() }
                }
                output = self == .agent ? 30 + random.below(120) : 100 + random.below(500)
            case .rag:
                let document = documents[random.zipf(documents.count)]
                ids = shared[0] + document + freshIDs(1)
                output = 60 + random.below(240)
            }
            let lastBlock = 1 + random.below(Trace.blockTokens)
            requests.append(
                TraceRequest(
                    timestamp: time,
                    inputLength: (ids.count - 1) * Trace.blockTokens + lastBlock,
                    outputLength: output, hashIDs: ids))
        }
        return Trace(requests: requests)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every platform.
struct SplitMix64 {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }

    /// Uniform in (0, 1].
    mutating func unit() -> Double {
        (Double(next() >> 11) + 1) / 9_007_199_254_740_992
    }

    /// Uniform in 0..<bound.
    mutating func below(_ bound: Int) -> Int {
        Int(UInt64(bound).multipliedFullWidth(by: next()).high)
    }

    /// A rank in 0..<count with probability about 1/(rank+1), by inversion of the harmonic sum.
    mutating func zipf(_ count: Int) -> Int {
        let rank = Double(count).power(unit())
        return min(count - 1, Int(rank) - 1)
    }
}
