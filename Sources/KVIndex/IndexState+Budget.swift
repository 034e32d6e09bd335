/// Engine blocks that their endpoint holds no more, oldest first. They are kept a while because
/// their children, or their copies in another tier, may still be announced.
struct RetiredBlocks {
    static let capacity = 1 << 16

    private var tags: [UInt64] = []
    private var oldest = 0

    var byteCount: Int { tags.capacity * MemoryLayout<UInt64>.stride }

    /// Adds one and returns the one that it displaces.
    mutating func push(_ tag: UInt64) -> UInt64? {
        guard tags.count == Self.capacity else {
            tags.append(tag)
            return nil
        }
        let displaced = tags[oldest]
        tags[oldest] = tag
        oldest = (oldest + 1) % Self.capacity
        return displaced
    }
}

extension IndexState {
    /// What the index takes now: the tables to the byte, what varies in size by its content.
    var byteCount: Int {
        engineBlocks.byteCount + blocks.byteCount + sets.byteCount + retired.byteCount
            + tailBytes + parkedBytes + expectations.byteCount
            + surplus.capacity * (MemoryLayout<Residence>.stride + MemoryLayout<Int>.stride)
    }

    func hasRoom(for bytes: Int) -> Bool { byteCount + bytes <= maximumBytes }

    /// How many candidates an eviction looks at before it takes one that was used.
    private static var sampleCount: Int { 16 }
    /// How many entries an eviction passes over in search of candidates.
    private static var searchCount: Int { 256 }

    /// Makes room for one more key, by growth while the budget lasts, then by eviction.
    mutating func makeRoom(forBlock key: UInt64) -> Bool {
        guard let growth = blocks.growth(for: key) else { return true }
        if hasRoom(for: growth) {
            blocks.grow(for: key)
            return true
        }
        return evictBlock(near: key)
    }

    /// Makes room for one more engine hash, by growth while the budget lasts, then by eviction.
    mutating func makeRoom(forEngineBlock tag: UInt64) -> Bool {
        guard let growth = engineBlocks.growth(for: tag) else { return true }
        if hasRoom(for: growth) {
            engineBlocks.grow(for: tag)
            return true
        }
        return evictEngineBlock(near: tag)
    }

    func makeRoomForSet() -> Bool {
        guard let growth = sets.growth else { return true }
        return hasRoom(for: growth)
    }

    /// Forgets a block with all its residents: one that no lookup met lately, if there is one
    /// among the next few.
    private mutating func evictBlock(near key: UInt64) -> Bool {
        var victim: UInt64?
        for _ in 0..<Self.sampleCount {
            guard let (candidate, block) = blocks.nextEntry(near: key) else { break }
            victim = victim ?? candidate
            if block.use == 0 {
                victim = candidate
                break
            }
            blocks.find(candidate)?.pointee.use -= 1
        }
        guard let victim, let block = blocks.find(victim) else { return false }
        if let set = block.pointee.set {
            sets.forEach(in: set) { surplus[Residence(key: victim, resident: $0)] = nil }
            sets.deallocate(set)
        } else {
            for index in 0..<block.pointee.count {
                surplus[Residence(key: victim, resident: block.pointee.residents[index])] = nil
            }
        }
        blocks.remove(victim)
        evictionCount += 1
        return true
    }

    /// Forgets an engine block: one that its endpoint holds no more, else one whose request key no
    /// lookup met lately, if there is one among the next few.
    mutating func evictEngineBlock(near tag: UInt64) -> Bool {
        var victim: UInt64?
        var candidateCount = 0
        for _ in 0..<Self.searchCount {
            guard candidateCount < Self.sampleCount,
                let (candidate, engineBlock) = engineBlocks.nextEntry(near: tag)
            else { break }
            if engineBlock.isPart { continue }
            candidateCount += 1
            if engineBlock.isRetired {
                victim = candidate
                break
            }
            guard let block = blocks.find(engineBlock.key), block.pointee.use > 0 else {
                victim = candidate
                break
            }
            victim = victim ?? candidate
            block.pointee.use -= 1
        }
        guard let victim else { return false }
        forget(victim)
        evictionCount += 1
        return true
    }
}
