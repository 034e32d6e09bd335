import Core
import KVIndex

/// The index that other routers' word comes into. Loop-bound.
final class IndexReplica: SharedIndexReplica {
    private let index: KVIndex

    init(_ index: KVIndex) {
        self.index = index
    }

    func add(_ blocks: [SharedBlock], to endpoint: String) {
        guard let endpoint = index.endpoint(named: endpoint) else { return }
        for tier in Tier.allCases {
            let here = blocks.filter { $0.tier == tier }
            guard !here.isEmpty else { continue }
            let (hashes, keys) = (here.map(\.engineHash), here.map(\.key))
            index.add(hashes.span, keys: keys.span, in: tier, of: endpoint)
        }
    }

    func remove(_ blocks: [SharedBlock], from endpoint: String) {
        guard let endpoint = index.endpoint(named: endpoint) else { return }
        for tier in Tier.allCases {
            let hashes = blocks.filter { $0.tier == tier }.map(\.engineHash)
            guard !hashes.isEmpty else { continue }
            index.takeBack(hashes.span, from: tier, of: endpoint)
        }
    }
}
