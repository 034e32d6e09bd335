import Core
import Hashing

extension IndexWriter {
    // MARK: - Stores

    /// Applies a store; `hasher` is that of the model or adapter that it names.
    mutating func store(
        _ stored: BlocksStored, in batch: KVEventBatch, at endpoint: EndpointHandle,
        model: String, _ hasher: RequestKeyHasher
    ) {
        guard isIndexable(stored, in: batch) else {
            return skipStores(stored.hashes.count, at: endpoint)
        }
        guard !stored.tokens.isEmpty else {
            let holders =
                stored.attention == .other
                ? [] : holders(ofGroup: stored.group ?? mainGroup(of: endpoint), at: endpoint)
            return storePlaces(
                batch.hashes.span.extracting(stored.hashes), of: stored.tier,
                group: stored.group, at: endpoint, holders)
        }
        guard let holder = holder(for: stored, at: endpoint) else {
            return skipStores(stored.hashes.count, at: endpoint)
        }
        guard let parent = stored.parent else {
            let start = SequencePoint(key: hasher.root, tail: nil, isStart: true)
            return store(stored, in: batch, from: start, at: endpoint, as: holder, hasher)
        }
        switch tables.find(parent, of: holder) {
        case .key(let key):
            let point = SequencePoint(key: key, tail: nil, isStart: false)
            store(stored, in: batch, from: point, at: endpoint, as: holder, hasher)
        case .tail(let tag):
            guard let point = tails[BlockName(holder: holder, tag: tag)] else {
                return skipStores(stored.hashes.count, at: endpoint)
            }
            store(stored, in: batch, from: point, at: endpoint, as: holder, hasher)
        case .evicted:
            // No lookup would get as far as this.
            skipStores(stored.hashes.count, at: endpoint)
        case .unknown:
            park(stored, in: batch, model: model, under: parent, at: endpoint)
        }
    }

    /// Whether the store tells what the index needs.
    private func isIndexable(_ stored: BlocksStored, in batch: KVEventBatch) -> Bool {
        // Engines before vLLM 0.14 number adapters: keys under the base model's name would be
        // false.
        if stored.loraID != nil, stored.loraName == nil { return false }
        guard !stored.tokens.isEmpty else { return true }
        let (tokenCount, overflow) = stored.hashes.count.multipliedReportingOverflow(
            by: stored.blockSize)
        return !overflow && tokenCount == stored.tokens.count && !stored.hashes.isEmpty
    }

    private func mainGroup(of endpoint: EndpointHandle) -> Int? {
        if case .named(let group) = endpoints[endpoint].mainGroup { group } else { nil }
    }

    private mutating func store(
        _ stored: BlocksStored, in batch: KVEventBatch, from start: SequencePoint,
        at endpoint: EndpointHandle, as holder: UInt16, _ hasher: RequestKeyHasher
    ) {
        let hasExtras = !stored.extraKeys.isEmpty || stored.cacheSalt != nil
        let hashes = batch.hashes.span.extracting(stored.hashes)
        let rule = holder == endpoint.index ? nil : rule(of: holder, at: endpoint)
        let count: Int
        if start.tail == nil, !hasExtras, rule != .state, stored.blockSize % blockSize == 0 {
            var keys: [UInt64] = []
            swap(&keys, &spareKeys)
            hasher.hash(
                batch.tokens.span.extracting(stored.tokens), after: start.key, into: &keys)
            count = tables.store(
                hashes, keys: keys.span, keysPerBlock: stored.blockSize / blockSize,
                hasTail: false, at: holder, in: stored.tier)
            if count == hashes.count, stored.blockSize == blockSize, holder == endpoint.index {
                tell(hashes, keys: keys.span, tier: stored.tier, group: stored.group)
            }
            swap(&keys, &spareKeys)
        } else {
            let path = RequestKeyPath(stored, in: batch, from: start, hasher: hasher)
            count = store(
                hashes, along: path, isState: rule == .state, isGroup: holder != endpoint.index,
                group: stored.group, at: holder, in: stored.tier)
        }
        settle()
        admissionCount += count
        endpoints[endpoint].counters.storedCount += count
        if count < hashes.count { skipStores(hashes.count - count, at: endpoint) }
        unpark(childrenOf: hashes, at: endpoint, hasher)
    }

    /// Blocks one by one, where they differ in shape; the number stored.
    private mutating func store(
        _ hashes: Span<UInt64>, along path: RequestKeyPath, isState: Bool, isGroup: Bool,
        group: Int?, at holder: UInt16, in tier: Tier
    ) -> Int {
        var stored = 0
        for index in hashes.indices {
            let point = path.point(atEndOf: index)
            var keys = path.keyRange(of: index)
            // A state stands for the sequence up to the block's end, and nothing between.
            if isState { keys = point.tail == nil ? keys.suffix(1) : keys.prefix(0) }
            let hasTail = point.tail != nil || keys.isEmpty
            let isStored =
                tables.store(
                    hashes.extracting(index..<index + 1), keys: path.keys.span.extracting(keys),
                    keysPerBlock: keys.count, hasTail: hasTail, at: holder, in: tier) == 1
            settle()
            if !isStored { continue }
            stored += 1
            if !hasTail, keys.count == 1, !isGroup {
                tell(
                    hashes.extracting(index..<index + 1), keys: path.keys.span.extracting(keys),
                    tier: tier, group: group)
            }
            if hasTail {
                keep(point, as: BlockName(holder: holder, tag: tables.tag(hashes[index])))
            }
        }
        return stored
    }

    private mutating func tell(
        _ hashes: Span<UInt64>, keys: Span<UInt64>, tier: Tier, group: Int?
    ) {
        guard changes != nil else { return }
        for index in hashes.indices {
            changes?.append(
                .stored(engineHash: hashes[index], key: keys[index], tier: tier, group: group))
        }
    }

    private mutating func keep(_ point: SequencePoint, as name: BlockName) {
        let replaced = tails.updateValue(point, forKey: name)
        tailBytes += point.byteCount - (replaced?.byteCount ?? 0)
    }

    /// A store that tells only a place: the tokens were told before.
    private mutating func storePlaces(
        _ hashes: Span<UInt64>, of tier: Tier, group: Int?, at endpoint: EndpointHandle,
        _ holders: [UInt16]
    ) {
        guard !holders.isEmpty else { return skipStores(hashes.count, at: endpoint) }
        var unknown: [UInt64] = []
        for (index, holder) in holders.enumerated() {
            let unknownHere = tables.storePlaces(hashes, at: holder, in: tier)
            if holder == endpoint.index, changes != nil {
                for index in hashes.indices where !unknownHere.contains(hashes[index]) {
                    guard case .key(let key) = tables.find(hashes[index], of: holder) else {
                        continue
                    }
                    changes?.append(
                        .stored(engineHash: hashes[index], key: key, tier: tier, group: group))
                }
            }
            unknown = index == 0 ? unknownHere : unknown.filter(unknownHere.contains)
        }
        settle()
        endpoints[endpoint].counters.storedCount += hashes.count - unknown.count
        for hash in unknown
        where !endpoints[endpoint].parked.change(.init(hash: hash, tier: tier, isStore: true)) {
            skipStores(1, at: endpoint)
        }
    }

    private mutating func skipStores(_ count: Int, at endpoint: EndpointHandle) {
        endpoints[endpoint].counters.storesSkippedCount += count
        storesSkippedCount += count
    }

    // MARK: - Removals

    mutating func remove(
        _ removed: BlocksRemoved, in batch: KVEventBatch, at endpoint: EndpointHandle
    ) {
        let hashes = batch.hashes.span.extracting(removed.hashes)
        let holders = holders(ofGroup: removed.group, at: endpoint)
        // A group that is not indexed.
        guard !holders.isEmpty else { return }
        var unknown: [UInt64] = []
        for (index, holder) in holders.enumerated() {
            let unknownHere = tables.remove(hashes, at: holder, from: removed.tier)
            unknown = index == 0 ? unknownHere : unknown.filter(unknownHere.contains)
        }
        settle()
        if changes != nil, holders.contains(endpoint.index) {
            for index in hashes.indices {
                changes?.append(.removed(engineHash: hashes[index], tier: removed.tier))
            }
        }
        endpoints[endpoint].counters.removedCount += hashes.count - unknown.count
        for hash in unknown
        where !endpoints[endpoint].parked.change(
            .init(hash: hash, tier: removed.tier, isStore: false))
        {
            endpoints[endpoint].counters.removalsSkippedCount += 1
            removalsSkippedCount += 1
        }
    }

    // MARK: - Children of unknown parents

    private mutating func park(
        _ stored: BlocksStored, in batch: KVEventBatch, model: String, under parent: UInt64,
        at endpoint: EndpointHandle
    ) {
        let (event, copy) = batch.extracting(stored)
        let store = ParkedStores.Store(event: event, batch: copy, model: model)
        guard tables.hasRoom(for: store.byteCount) else {
            endpoints[endpoint].counters.parkedDroppedCount += 1
            return
        }
        let bytes = endpoints[endpoint].parked.byteCount
        let dropped = endpoints[endpoint].parked.park(
            store, under: parent, limit: maximumParkedBlockCount)
        endpoints[endpoint].counters.parkedDroppedCount += dropped
        parkedBytes += endpoints[endpoint].parked.byteCount - bytes
        settle()
    }

    /// Applies the stores that waited for these blocks, and what happened to theirs since.
    private mutating func unpark(
        childrenOf hashes: Span<UInt64>, at endpoint: EndpointHandle, _ hasher: RequestKeyHasher
    ) {
        guard !endpoints[endpoint].parked.isEmpty else { return }
        for index in hashes.indices {
            let bytes = endpoints[endpoint].parked.byteCount
            let waiting = endpoints[endpoint].parked.take(childrenOf: hashes[index])
            parkedBytes += endpoints[endpoint].parked.byteCount - bytes
            for parked in waiting {
                // A chain does not change its model on the way.
                store(parked.event, in: parked.batch, at: endpoint, model: parked.model, hasher)
                for change in parked.later { apply(change, at: endpoint) }
            }
        }
    }

    private mutating func apply(_ change: ParkedStores.Change, at endpoint: EndpointHandle) {
        let hashes = [change.hash]
        if change.isStore {
            let group = mainGroup(of: endpoint)
            storePlaces(
                hashes.span, of: change.tier, group: group, at: endpoint,
                holders(ofGroup: group, at: endpoint))
        } else {
            var batch = KVEventBatch()
            batch.hashes = hashes
            var removed = BlocksRemoved()
            removed.hashes = 0..<1
            removed.tier = change.tier
            remove(removed, in: batch, at: endpoint)
        }
    }
}
