import Core

extension IndexState {
    // MARK: - Engine blocks

    func tag(_ hash: UInt64, of endpoint: EndpointHandle) -> UInt64 {
        hash ^ endpoints.salts[endpoint]
    }

    func engineBlock(_ tag: UInt64) -> EngineBlock? {
        guard let block = engineBlocks.find(tag)?.pointee, !block.isPart else { return nil }
        return block
    }

    /// Where the children of a block go on; nil if the block is not known.
    func point(after hash: UInt64, of endpoint: EndpointHandle) -> SequencePoint? {
        let tag = tag(hash, of: endpoint)
        guard let block = engineBlock(tag) else { return nil }
        return SequencePoint(
            key: block.key, tail: block.hasTail ? tails[tag] : nil, isStart: false)
    }

    /// The `part`-th of the keys that a block completes.
    private func key(_ part: Int, of tag: UInt64, _ block: EngineBlock) -> UInt64? {
        guard part < block.keyCount - 1 else { return block.key }
        return engineBlocks.find(EngineBlock.tag(ofPart: part, of: tag))?.pointee.key
    }

    private mutating func addResident(
        _ tag: UInt64, _ block: EngineBlock, in tier: Tier, isNew: Bool
    ) {
        let resident = Resident(block.endpoint, tier)
        for part in 0..<block.keyCount {
            guard let key = key(part, of: tag, block), isNew || !holds(key, resident) else {
                continue
            }
            add(key, resident)
        }
    }

    private mutating func removeResident(_ tag: UInt64, _ block: EngineBlock, from tier: Tier) {
        let resident = Resident(block.endpoint, tier)
        for part in 0..<block.keyCount {
            if let key = key(part, of: tag, block) { remove(key, resident) }
        }
    }

    /// Stores the `index`-th block of a store; false where the byte budget leaves no room.
    mutating func store(
        _ hash: UInt64, _ index: Int, of path: RequestKeyPath, at endpoint: EndpointHandle,
        in tier: Tier
    ) -> Bool {
        let tag = tag(hash, of: endpoint)
        let known = engineBlock(tag)
        let isSame =
            known?.key == path.lastKey(atEndOf: index)
            && known?.keyCount == path.keyRange(of: index).count
        if !isSame {
            // The engine gave the hash to other tokens: it dropped the old ones unseen.
            if known != nil { forget(tag) }
            guard insert(tag, index, of: path, at: endpoint) else { return false }
        }
        addReference(tag, in: tier)
        return true
    }

    private mutating func insert(
        _ tag: UInt64, _ index: Int, of path: RequestKeyPath, at endpoint: EndpointHandle
    ) -> Bool {
        let keyRange = path.keyRange(of: index)
        guard makeRoom(forEngineBlock: tag) else { return false }
        let tail = path.tail(atEndOf: index)
        admissionCount += 1
        engineBlocks.insert(
            tag,
            EngineBlock(
                key: path.lastKey(atEndOf: index), keyCount: keyRange.count, hasTail: tail != nil,
                endpoint: endpoint))
        if let tail {
            tails[tag] = tail
            tailBytes += tail.byteCount
            if !hasRoom(for: 0) { _ = evictEngineBlock(near: tag) }
        }
        for (part, position) in keyRange.dropLast().enumerated() {
            let partTag = EngineBlock.tag(ofPart: part, of: tag)
            guard makeRoom(forEngineBlock: partTag), engineBlocks.find(tag) != nil else {
                forget(tag)
                return false
            }
            engineBlocks.insert(partTag, .part(key: path.keys[position], endpoint: endpoint))
        }
        // Making room may have chosen the very block.
        return engineBlocks.find(tag) != nil
    }

    /// Counts one more store of a known block in a tier.
    private mutating func addReference(_ tag: UInt64, in tier: Tier) {
        guard let entry = engineBlocks.find(tag) else { return }
        let lane = Int(tier.rawValue)
        let wasRetired = entry.pointee.isRetired
        let wasHeld = entry.pointee.references[lane] > 0
        if entry.pointee.references[lane] < .max { entry.pointee.references[lane] += 1 }
        let block = entry.pointee
        if wasRetired { endpoints.counters[block.endpoint].blockCount += 1 }
        addResident(tag, block, in: tier, isNew: !wasHeld)
    }

    /// Takes back one store of a block; false if there was none.
    mutating func removeReference(_ tag: UInt64, in tier: Tier) -> Bool {
        let lane = Int(tier.rawValue)
        guard let entry = engineBlocks.find(tag), !entry.pointee.isPart,
            entry.pointee.references[lane] > 0
        else { return false }
        entry.pointee.references[lane] -= 1
        let block = entry.pointee
        guard block.references[lane] == 0 else { return true }
        removeResident(tag, block, from: tier)
        if block.isRetired {
            endpoints.counters[block.endpoint].blockCount -= 1
            if let displaced = retired.push(tag), engineBlock(displaced)?.isRetired == true {
                forget(displaced)
            }
        }
        return true
    }

    /// Drops all that is known of an engine hash.
    mutating func forget(_ tag: UInt64) {
        guard let block = engineBlock(tag) else { return }
        for tier in Tier.allCases where block.references[Int(tier.rawValue)] > 0 {
            removeResident(tag, block, from: tier)
        }
        for part in 0..<max(block.keyCount - 1, 0) {
            let partTag = EngineBlock.tag(ofPart: part, of: tag)
            if engineBlocks.find(partTag) != nil { engineBlocks.remove(partTag) }
        }
        if block.hasTail, let tail = tails.removeValue(forKey: tag) { tailBytes -= tail.byteCount }
        if !block.isRetired { endpoints.counters[block.endpoint].blockCount -= 1 }
        engineBlocks.remove(tag)
    }

    // MARK: - Events

    /// Whether events of this group are indexed; the first group with full attention is.
    mutating func isIndexed(group: Int?, isFullAttention: Bool, at endpoint: EndpointHandle) -> Bool
    {
        guard isFullAttention else { return false }
        let group = group.map(EndpointRegistry.IndexedGroup.named) ?? .unnamed
        if let indexed = endpoints[endpoint].indexedGroup { return indexed == group }
        endpoints[endpoint].indexedGroup = group
        return true
    }

    /// A store that tells only a place: the tokens were told before.
    mutating func storePlace(_ hash: UInt64, at endpoint: EndpointHandle, in tier: Tier) {
        let tag = tag(hash, of: endpoint)
        if engineBlock(tag) != nil {
            addReference(tag, in: tier)
            endpoints.counters[endpoint].storedCount += 1
        } else if !endpoints[endpoint].parked.change(.init(hash: hash, tier: tier, isStore: true)) {
            skipStores(1, at: endpoint)
        }
    }

    mutating func skipStores(_ count: Int, at endpoint: EndpointHandle) {
        endpoints.counters[endpoint].storesSkippedCount += count
        storesSkippedCount += count
    }

    mutating func remove(_ hash: UInt64, at endpoint: EndpointHandle, from tier: Tier) {
        if removeReference(tag(hash, of: endpoint), in: tier) {
            endpoints.counters[endpoint].removedCount += 1
        } else if !endpoints[endpoint].parked.change(.init(hash: hash, tier: tier, isStore: false))
        {
            endpoints.counters[endpoint].removalsSkippedCount += 1
            removalsSkippedCount += 1
        }
    }

    mutating func park(
        _ stored: BlocksStored, in batch: KVEventBatch, model: String, under parent: UInt64,
        at endpoint: EndpointHandle
    ) {
        let (event, copy) = batch.extracting(stored)
        let store = ParkedStores.Store(event: event, batch: copy, model: model)
        guard hasRoom(for: store.byteCount) else {
            endpoints.counters[endpoint].parkedDroppedCount += 1
            return
        }
        let bytes = endpoints[endpoint].parked.byteCount
        endpoints.counters[endpoint].parkedDroppedCount += endpoints[endpoint].parked.park(
            store, under: parent, limit: maximumParkedBlockCount)
        parkedBytes += endpoints[endpoint].parked.byteCount - bytes
    }

    mutating func takeParked(
        childrenOf hash: UInt64, at endpoint: EndpointHandle
    ) -> [ParkedStores.Store] {
        guard !endpoints[endpoint].parked.isEmpty else { return [] }
        let bytes = endpoints[endpoint].parked.byteCount
        let stores = endpoints[endpoint].parked.take(childrenOf: hash)
        parkedBytes += endpoints[endpoint].parked.byteCount - bytes
        return stores
    }

    // MARK: - Clearing

    /// Drops what an endpoint has parked; its blocks go by ``clearSome(of:from:)``.
    mutating func beginClearing(_ endpoint: EndpointHandle) {
        parkedBytes -= endpoints[endpoint].parked.byteCount
        endpoints[endpoint].parked = ParkedStores()
        endpoints.counters[endpoint].clearedCount += 1
    }

    /// Drops some of an endpoint's blocks, from `cursor` on; false after the last.
    ///
    /// Entries that another endpoint's growth moved past the cursor meanwhile are missed: the
    /// caller goes round again until the endpoint's count is 0.
    mutating func clearSome(
        of endpoint: EndpointHandle, from cursor: inout FlatTable<EngineBlock>.Cursor
    ) -> Bool {
        for _ in 0..<Self.clearStepCount {
            guard let (tag, block) = engineBlocks.entry(at: &cursor) else { return false }
            if block.endpoint == endpoint, !block.isPart {
                forget(tag)
            } else {
                cursor.slot += 1
            }
        }
        return true
    }

    private static var clearStepCount: Int { 512 }
}
