import Core

/// Stores of one endpoint whose parent is not known yet, and what happened to their blocks since.
struct ParkedStores {
    struct Store {
        var event: BlocksStored
        var batch: KVEventBatch
        var model: String
        /// Removals, and stores that tell only a place, in their order.
        var later: [Change] = []

        var byteCount: Int { 256 + 8 * batch.hashes.count + 4 * batch.tokens.count }
    }

    struct Change {
        var hash: UInt64
        var tier: Tier
        var isStore: Bool
    }

    private var stores: [UInt64: [Store]] = [:]
    /// The parent under which each block is parked.
    private var parents: [UInt64: UInt64] = [:]
    /// Parents in the order of their first store; those taken since are passed over.
    private var order: [UInt64] = []
    private(set) var storeCount = 0
    private(set) var blockCount = 0
    private(set) var byteCount = 0

    var isEmpty: Bool { storeCount == 0 }

    /// Parks a store, and drops the oldest until no more than `limit` blocks are parked.
    ///
    /// - Returns: the number of stores dropped.
    mutating func park(_ store: Store, under parent: UInt64, limit: Int) -> Int {
        if stores[parent] == nil { order.append(parent) }
        for hash in store.batch.hashes { parents[hash] = parent }
        storeCount += 1
        blockCount += store.batch.hashes.count
        byteCount += store.byteCount
        stores[parent, default: []].append(store)
        let before = storeCount
        while blockCount > limit, let oldest = order.first { _ = take(childrenOf: oldest) }
        return before - storeCount
    }

    /// Notes a change of a block that is parked; false if it is not.
    mutating func change(_ change: Change) -> Bool {
        guard let parent = parents[change.hash],
            let index = stores[parent]?.lastIndex(where: { $0.batch.hashes.contains(change.hash) })
        else { return false }
        stores[parent]?[index].later.append(change)
        return true
    }

    /// Takes out the stores that wait for a block.
    mutating func take(childrenOf parent: UInt64) -> [Store] {
        guard let taken = stores.removeValue(forKey: parent) else { return [] }
        if let index = order.firstIndex(of: parent) { order.remove(at: index) }
        for store in taken {
            storeCount -= 1
            blockCount -= store.batch.hashes.count
            byteCount -= store.byteCount
            for hash in store.batch.hashes where parents[hash] == parent { parents[hash] = nil }
        }
        return taken
    }
}
