internal import Core
internal import Hashing
public import KVIndex
import Synchronization

/// Answers questions about prefixes from an index. Any thread.
public final class PrefixLookup: Sendable {
    private let index: KVIndex
    private let engines: EngineDirectory
    private let weights: TierWeights
    /// Results of earlier lookups, to be overwritten by the next.
    private let spareMatches = Mutex<[PrefixMatches]>([])

    /// Makes a lookup in an index that holds the blocks of these engines.
    public init(index: KVIndex, engines: EngineDirectory, weights: TierWeights = .standard) {
        self.index = index
        self.engines = engines
        self.weights = weights
    }

    /// Tokens in a block.
    var blockSize: Int { index.configuration.blockSize }

    /// The score of every engine that holds the prompt's first block, the best first; with `pods`
    /// of those only, each called by its name, by its name without rank or by its address.
    public func scores(of tokens: [UInt32], model: String, pods: [String]) -> [PodScore] {
        let wanted = Set(pods)
        let list = engines.list
        return withMatches(tokens, model: model, salt: nil, list) { matches, engines in
            var scores: [PodScore] = []
            for (engine, handle) in engines {
                guard let handle else { continue }
                let match = matches[handle]
                guard match.blockCount > 0 else { continue }
                let score = match.weighted(by: weights)
                if wanted.isEmpty {
                    scores.append(
                        PodScore(pod: engine.instance, score: score, rank: engine.rank))
                    continue
                }
                for name in engine.names
                where wanted.contains(name) {
                    scores.append(PodScore(pod: name, score: score, rank: engine.rank))
                }
            }
            return scores.sorted {
                ($1.score, $0.pod, $0.rank ?? -1) < ($0.score, $1.pod, $1.rank ?? -1)
            }
        }
    }

    /// What each instance that the query asks about holds, by name; zeros for one without blocks.
    public func matches(for query: PrefixQuery) -> [InstanceMatch] {
        let list = engines.list
        let model = query.adapter ?? query.model
        return withMatches(query.tokens, model: model, salt: query.cacheSalt, list) {
            matches, engines in
            var found: [String: InstanceMatch] = [:]
            for (engine, handle) in engines {
                guard engine.tenant == query.tenant, engine.model ?? query.model == query.model,
                    query.instance == nil || query.instance == engine.instance
                else { continue }
                found[engine.instance, default: InstanceMatch(instance: engine.instance)].add(
                    handle.map { matches[$0] }, rank: engine.rank ?? 0, blockSize: blockSize)
            }
            for instance in found.keys { found[instance]?.ranks.sort { $0.rank < $1.rank } }
            return found.values.sorted { $0.instance < $1.instance }
        }
    }

    private func withMatches<Result>(
        _ tokens: [UInt32], model: String, salt: String?, _ list: EngineList,
        _ body: (PrefixMatches, [EngineList.Met]) -> Result
    ) -> Result {
        let keys = keys(of: tokens, model: model, salt: salt)
        let engines = list.engines(in: index)
        var matches = spareMatches.withLock { $0.popLast() } ?? PrefixMatches()
        index.match(keys.span, at: .now, into: &matches)
        // Those who share the index in llm-d's layout ask Redis what others know of the prompt.
        index.recentLookups.note(keys)
        defer { spareMatches.withLock { [matches] in $0.append(matches) } }
        return body(matches, engines)
    }

    private func keys(of tokens: [UInt32], model: String, salt: String?) -> [UInt64] {
        let hasher = index.hasher(model: model)
        guard let salt else { return hasher.keys(of: tokens.span) }
        let salted = hasher.extraKeys([salt])
        return hasher.keys(of: tokens.span) { $0 == 0 ? salted : .none }
    }
}

extension InstanceMatch {
    fileprivate init(instance: String) {
        self.instance = instance
    }

    /// Takes in what one rank holds.
    fileprivate mutating func add(_ match: PrefixMatch?, rank: Int, blockSize: Int) {
        let gpu = (match?.blockCount(in: .gpu) ?? 0) * blockSize
        let cpu = gpu + (match?.blockCount(in: .cpu) ?? 0) * blockSize
        gpuTokens = max(gpuTokens, gpu)
        cpuTokens = max(cpuTokens, cpu)
        tokens = max(tokens, (match?.blockCount ?? 0) * blockSize)
        ranks.append(Rank(rank: rank, gpuTokens: gpu))
    }
}
