import Core

/// Everything that the index's lock guards.
///
/// Two tables: what the engine hashes of each endpoint stand for, and who holds each request key.
/// This file holds the second; the first and the events are in `IndexState+Engine.swift`, the
/// lookup in `IndexState+Match.swift`, the byte budget in `IndexState+Budget.swift`.
struct IndexState: ~Copyable, Sendable {
    /// A resident of one block.
    struct Residence: Hashable {
        var key: UInt64
        var resident: Resident
    }

    let maximumBytes: Int
    let maximumParkedBlockCount: Int

    var engineBlocks = FlatTable<EngineBlock>()
    var blocks = FlatTable<Block>()
    var sets = ResidentSets()
    /// How many more reasons than one there are for a residence: other engine hashes of the same
    /// tokens, or requests expected to bring the block.
    var surplus: [Residence: Int] = [:]
    var tails: [UInt64: Tail] = [:]
    var tailBytes = 0
    var parkedBytes = 0
    var retired = RetiredBlocks()
    var expectations = Expectations()
    var endpoints = EndpointRegistry()

    var admissionCount = 0
    var evictionCount = 0
    var lookupCount = 0
    var lookupHitCount = 0
    var storesSkippedCount = 0
    var removalsSkippedCount = 0

    init(maximumBytes: Int, maximumParkedBlockCount: Int) {
        self.maximumBytes = maximumBytes
        self.maximumParkedBlockCount = maximumParkedBlockCount
    }

    // MARK: - Who holds a block

    func contains(_ resident: Resident, of block: Block) -> Bool {
        if let set = block.set { return sets.contains(resident, in: set) }
        return block.contains(resident)
    }

    func holds(_ key: UInt64, _ resident: Resident) -> Bool {
        guard let block = blocks.find(key) else { return false }
        return contains(resident, of: block.pointee)
    }

    /// Adds a reason why `resident` holds a block; without effect where the byte budget is spent.
    mutating func add(_ key: UInt64, _ resident: Resident) {
        guard let block = blocks.find(key) else {
            guard makeRoom(forBlock: key) else { return }
            var block = Block()
            block.residents[0] = resident
            blocks.insert(key, block)
            return
        }
        if contains(resident, of: block.pointee) {
            surplus[Residence(key: key, resident: resident), default: 0] += 1
        } else if let set = block.pointee.set {
            sets.insert(resident, in: set)
        } else if block.pointee.count < Block.inlineCount {
            block.pointee.residents[block.pointee.count] = resident
        } else if makeRoomForSet() {
            let set = sets.allocate()
            for index in 0..<Block.inlineCount {
                sets.insert(block.pointee.residents[index], in: set)
            }
            sets.insert(resident, in: set)
            block.pointee.set = set
        }
    }

    /// Takes one reason away, and the residence with the last.
    mutating func remove(_ key: UInt64, _ resident: Resident) {
        let residence = Residence(key: key, resident: resident)
        if !surplus.isEmpty, let count = surplus[residence] {
            surplus[residence] = count > 1 ? count - 1 : nil
            return
        }
        guard let block = blocks.find(key), contains(resident, of: block.pointee) else { return }
        if let set = block.pointee.set {
            sets.remove(resident, from: set)
            // Well below the inline count, so that a block on the edge does not go to and fro.
            if sets.count(of: set) <= Block.inlineCount / 2 { putInPlace(block, set) }
        } else {
            let last = block.pointee.count - 1
            for index in 0...last where block.pointee.residents[index] == resident {
                block.pointee.residents[index] = block.pointee.residents[last]
                block.pointee.residents[last] = .none
                break
            }
            if last == 0 { blocks.remove(key) }
        }
    }

    private mutating func putInPlace(_ block: UnsafeMutablePointer<Block>, _ set: Int) {
        var residents = InlineArray<6, Resident>(repeating: .none)
        var count = 0
        sets.forEach(in: set) {
            residents[count] = $0
            count += 1
        }
        block.pointee.residents = residents
        block.pointee.set = nil
        sets.deallocate(set)
    }

    // MARK: - Expected blocks

    /// Notes the blocks that the endpoint does not hold as about to come.
    mutating func expect(
        _ keys: UnsafeBufferPointer<UInt64>, at endpoint: EndpointHandle, until: MonotonicTime
    ) {
        guard endpoints.contains(endpoint) else { return }
        let held = Resident(endpoint, .gpu)
        let resident = Resident(expectedAt: endpoint)
        var added: [UInt64] = []
        for key in keys where !holds(key, held) {
            add(key, resident)
            added.append(key)
        }
        guard !added.isEmpty else { return }
        expectations.insert(.init(until: until, resident: resident, keys: added))
        while expectations.keyCount > Self.maximumExpectedCount { endFirstExpectation(by: nil) }
    }

    /// Bounds memory only: it takes 512 requests of 512 new blocks each within one lifetime.
    private static var maximumExpectedCount: Int { 1 << 18 }

    mutating func endExpectations(by now: MonotonicTime) {
        while endFirstExpectation(by: now) {}
    }

    @discardableResult
    private mutating func endFirstExpectation(by now: MonotonicTime?) -> Bool {
        guard let ended = expectations.popFirst(endedBy: now) else { return false }
        for key in ended.keys { remove(key, ended.resident) }
        return true
    }

    mutating func endExpectations(at endpoint: EndpointHandle) {
        for ended in expectations.remove(Resident(expectedAt: endpoint)) {
            for key in ended.keys { remove(key, ended.resident) }
        }
    }
}
