import Core
import KVIndex

// A model of what an index knows: whole token sequences, all of them searched.

/// What a request key stands for: everything up to a block's end.
struct ModelPrefix: Hashable {
    var model: String
    var salt: String?
    var tokens: [UInt32]
}

struct ModelBlock {
    var prefix: ModelPrefix
    /// How many tokens of the prefix are the block's own.
    var size: Int
    var references = [Int](repeating: 0, count: 4)
}

struct ModelStore {
    var parent: UInt64?
    var hashes: [UInt64]
    var blocks: [ModelBlock]
    var tier: Int
    var later: [(hash: UInt64, tier: Int, isStore: Bool)] = []
}

struct ModelEndpoint {
    var handle: EndpointHandle
    var blockSize: Int
    var blocks: [UInt64: ModelBlock] = [:]
    var parked: [ModelStore] = []
    var expected: [(prefix: ModelPrefix, until: MonotonicTime)] = []

    mutating func apply(_ store: ModelStore) {
        if let parent = store.parent, blocks[parent] == nil {
            parked.append(store)
            return
        }
        for (hash, block) in zip(store.hashes, store.blocks) {
            blocks[hash, default: block].references[store.tier] += 1
        }
        for hash in store.hashes {
            let children = parked.filter { $0.parent == hash }
            parked.removeAll { $0.parent == hash }
            for child in children {
                apply(child)
                for change in child.later { self.change(change) }
            }
        }
    }

    mutating func change(_ change: (hash: UInt64, tier: Int, isStore: Bool)) {
        let count = blocks[change.hash]?.references[change.tier] ?? 0
        if change.isStore, blocks[change.hash] != nil {
            blocks[change.hash]?.references[change.tier] += 1
        } else if !change.isStore, count > 0 {
            blocks[change.hash]?.references[change.tier] -= 1
        } else if let index = parked.lastIndex(where: { $0.hashes.contains(change.hash) }) {
            parked[index].later.append(change)
        }
    }

    func fastestTier(_ prefix: ModelPrefix, at now: MonotonicTime) -> Int? {
        if expected.contains(where: { $0.prefix == prefix && $0.until > now }) { return 0 }
        let length = prefix.tokens.count
        return blocks.values.compactMap { block in
            let end = block.prefix.tokens.count
            let holds =
                end - block.size < length && length <= end
                && block.prefix.model == prefix.model && block.prefix.salt == prefix.salt
                && block.prefix.tokens.starts(with: prefix.tokens)
            return holds ? block.references.firstIndex { $0 > 0 } : nil
        }.min()
    }
}
