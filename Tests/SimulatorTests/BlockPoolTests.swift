import Hashing
import Simulator
import Testing

/// The pool written the obvious way: a list of free blocks in order of eviction, and a search for
/// everything.
private struct SlowPool {
    var free: [BlockID]
    var holders: [BlockID: Int] = [:]
    var contents: [BlockID: BlockHash] = [:]

    init(count: Int) { free = (0..<BlockID(count)).map { $0 } }

    func block(of hash: BlockHash) -> BlockID? { contents.first { $0.value == hash }?.key }

    mutating func hold(_ blocks: [BlockID]) {
        for block in blocks {
            free.removeAll { $0 == block }
            holders[block, default: 0] += 1
        }
    }

    mutating func allocate() -> BlockID {
        let block = free.removeFirst()
        contents[block] = nil
        holders[block] = 1
        return block
    }

    mutating func cache(_ block: BlockID, _ hash: BlockHash) {
        if self.block(of: hash) == nil { contents[block] = hash }
    }

    mutating func release(_ blocks: [BlockID]) {
        for block in blocks.reversed() {
            holders[block, default: 0] -= 1
            if holders[block] == 0 { free.append(block) }
        }
    }
}

@Suite struct BlockPoolTests {
    @Test func evictsTheLeastRecentlyFreedTailFirst() {
        var pool = BlockPool(count: 4, blockSize: 1)
        let first = [pool.allocate(), pool.allocate(), pool.allocate()]
        #expect(first == [0, 1, 2])
        pool.cache(
            first[...], chain: [hash(1), hash(2), hash(3)], tokens: [1, 2, 3], parent: nil,
            salt: nil)
        _ = pool.release(first)
        let next = [pool.allocate(), pool.allocate()]
        #expect(next == [3, 2])
        #expect(pool.cachedPrefix(of: [hash(1), hash(2), hash(3)]) == [0, 1])
        var stored = KVEvent.Stored(parent: nil, salt: nil)
        stored.hashes = [hash(1), hash(2), hash(3)]
        stored.tokens = [1, 2, 3]
        let events = [pool.takeEvents(), pool.takeEvents()]
        #expect(events == [[.stored(stored), .removed(hash(3))], []])
        #expect(pool.usage == 0.5)
    }

    @Test func aSecondCopyStaysPrivate() {
        var pool = BlockPool(count: 4, blockSize: 2)
        let blocks = (0..<4).map { _ in pool.allocate() }
        pool.cache([blocks[0]], chain: [hash(1)], tokens: [1, 1], parent: nil, salt: "s")
        pool.cache(
            blocks[1...3], chain: [hash(1), hash(2), hash(3)], tokens: [1, 1, 2, 2, 3, 3],
            parent: nil, salt: "s")
        #expect(pool.cachedPrefix(of: [hash(1), hash(2)]) == [blocks[0], blocks[2]])
        var one = KVEvent.Stored(parent: nil, salt: "s")
        one.hashes = [hash(1)]
        one.tokens = [1, 1]
        var rest = KVEvent.Stored(parent: hash(1), salt: nil)
        rest.hashes = [hash(2), hash(3)]
        rest.tokens = [2, 2, 3, 3]
        let events = pool.takeEvents()
        #expect(events == [.stored(one), .stored(rest)])
    }

    @Test func resetsOnlyWhenNothingIsHeld() {
        var pool = BlockPool(count: 2, blockSize: 1)
        let block = pool.allocate()
        pool.cache([block], chain: [hash(1)], tokens: [1], parent: nil, salt: nil)
        let whileHeld = pool.reset()
        _ = pool.release([block])
        let whileFree = pool.reset()
        #expect(!whileHeld && whileFree)
        #expect(pool.cachedHashes.isEmpty)
        let events = pool.takeEvents()
        #expect(events.last == .cleared)
        _ = (pool.allocate(), pool.allocate())
        let later = pool.takeEvents()
        #expect(later.isEmpty)
    }

    @Test(arguments: [1, 2, 3] as [UInt64])
    func agreesWithTheSlowModel(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        var pool = BlockPool(count: 24, blockSize: 1)
        var slow = SlowPool(count: 24)
        var replica = EventReplica()
        var requests: [[BlockID]] = []
        for operation in 0..<3000 {
            let note: Comment = "seed \(seed), operation \(operation)"
            if Bool.random(using: &random),
                let index = requests.indices.randomElement(using: &random)
            {
                let blocks = requests.remove(at: index)
                _ = pool.release(blocks)
                slow.release(blocks)
            } else {
                // A chain: hash i follows hash i - 1 of the same family.
                let family = UInt64.random(in: 0..<6, using: &random) * 100
                let chain = (0..<UInt64.random(in: 1...8, using: &random)).map { hash(family + $0) }
                let hits = pool.cachedPrefix(of: chain)
                let slowHits = Array(chain.map(slow.block).prefix { $0 != nil }.compactMap(\.self))
                try #require(hits == slowHits, note)
                let heldFree = hits.count { slow.free.contains($0) }
                try #require(pool.freeCount(among: hits) == heldFree, note)
                guard slow.free.count - heldFree >= chain.count - hits.count else { continue }
                pool.hold(hits)
                slow.hold(hits)
                var blocks = hits
                for _ in hits.count..<chain.count {
                    let block = pool.allocate()
                    let expected = slow.allocate()
                    try #require(block == expected, note)
                    blocks.append(block)
                }
                for index in hits.count..<chain.count { slow.cache(blocks[index], chain[index]) }
                let range = hits.count..<chain.count
                pool.cache(
                    blocks[range], chain: chain[range],
                    tokens: ArraySlice(range.map(UInt32.init)),
                    parent: hits.isEmpty ? nil : chain[hits.count - 1], salt: nil)
                requests.append(blocks)
            }
            try #require(pool.freeCount == slow.free.count, note)
            let fits = replica.apply(pool.takeEvents(), blockSize: 1)
            try #require(fits, note)
            try #require(replica.cached == Set(slow.contents.values), note)
            try #require(replica.cached == Set(pool.cachedHashes), note)
        }
    }
}
