package import Hashing

/// A block of the pool, by its place in memory.
package typealias BlockID = Int32

/// The engine's KV blocks: who holds which, what is cached in them, which is evicted next. It
/// knows no memory; block `i` lies at `i` times the block's size.
///
/// As in vLLM, a block whose last holder lets go keeps its contents and can be found by its hash
/// until it is handed out again, least recently freed first; the blocks of a request are freed last
/// block first, so that a prefix outlives what follows it. Unlike in vLLM, a hash is cached in one
/// block at most: a second block with the same contents stays private to its holder. So the cached
/// set is exactly what the events say.
package struct BlockPool {
    /// Tokens in a block.
    package let blockSize: Int
    /// Blocks in the pool.
    package let count: Int
    /// Blocks that nobody holds, cached or not.
    package private(set) var freeCount: Int
    /// What happened to the cached set since ``takeEvents()``.
    private var events: [KVEvent] = []

    private var holders: [Int32]
    private var hashes: [BlockHash?]
    /// Whether a peer may still hold a block that nobody here keeps for it.
    private var revoked: [Bool]
    private var cached: [BlockHash: BlockID] = [:]
    /// The free list, a ring in order of eviction; place `count` is its head.
    private var next: [BlockID]
    private var previous: [BlockID]

    /// A pool of `count` blocks of `blockSize` tokens, all free and empty.
    package init(count: Int, blockSize: Int) {
        self.count = count
        self.blockSize = blockSize
        freeCount = count
        holders = Array(repeating: 0, count: count)
        hashes = Array(repeating: nil, count: count)
        revoked = Array(repeating: false, count: count)
        let places = BlockID(count) + 1
        next = (0..<places).map { ($0 + 1) % places }
        previous = (0..<places).map { ($0 + places - 1) % places }
    }

    /// The part of the pool that is held, 0 to 1.
    package var usage: Double { 1 - Double(freeCount) / Double(count) }

    /// The hashes that are cached now.
    package var cachedHashes: some Collection<BlockHash> { cached.keys }

    /// The blocks that hold the longest cached prefix of a chain.
    package func cachedPrefix(of chain: some Sequence<BlockHash>) -> [BlockID] {
        var blocks: [BlockID] = []
        for hash in chain {
            guard let block = cached[hash] else { break }
            blocks.append(block)
        }
        return blocks
    }

    /// How many of `blocks` nobody holds.
    package func freeCount(among blocks: [BlockID]) -> Int {
        blocks.count { holders[Int($0)] == 0 }
    }

    /// Takes hold of cached blocks.
    package mutating func hold(_ blocks: [BlockID]) {
        for block in blocks {
            if holders[Int(block)] == 0 { unlink(block) }
            holders[Int(block)] += 1
        }
    }

    /// Hands out the next block to evict; the caller holds it. There must be a free one.
    package mutating func allocate() -> BlockID {
        precondition(freeCount > 0, "the pool has no free block")
        let block = next[count]
        unlink(block)
        holders[Int(block)] = 1
        if let hash = hashes[Int(block)] {
            hashes[Int(block)] = nil
            cached[hash] = nil
            events.append(.removed(hash))
        }
        return block
    }

    /// Makes computed blocks findable. `blocks`, `chain` and `tokens` go together, and follow the
    /// block `parent`, or nothing. The hashes cover `adapter`, that of the first of all blocks
    /// covers `salt`. A hash that is cached already stays where it is.
    package mutating func cache(
        _ blocks: ArraySlice<BlockID>, chain: ArraySlice<BlockHash>, tokens: ArraySlice<UInt32>,
        parent: BlockHash?, adapter: LoRAAdapter? = nil, salt: String?
    ) {
        var stored = KVEvent.Stored(parent: parent, adapter: adapter, salt: salt)
        for (index, (block, hash)) in zip(blocks, chain).enumerated() {
            if cached[hash] == nil {
                cached[hash] = block
                hashes[Int(block)] = hash
                stored.hashes.append(hash)
                let start = tokens.startIndex + index * blockSize
                stored.tokens.append(contentsOf: tokens[start..<start + blockSize])
            } else {
                if !stored.hashes.isEmpty { events.append(.stored(stored)) }
                stored = KVEvent.Stored(parent: hash, adapter: adapter, salt: nil)
            }
        }
        if !stored.hashes.isEmpty { events.append(.stored(stored)) }
    }

    /// Lets go of a request's blocks, given in the order of its tokens.
    ///
    /// - Parameter revoking: they were given to a peer, which did not come for them in time.
    /// - Returns: the blocks to fence before anything else goes into them: those that were ever let
    ///   go of with `revoking` and that nobody holds any longer. Earlier a fence would take them
    ///   from the peers of their other holders as well.
    package mutating func release(_ blocks: [BlockID], revoking: Bool = false) -> [BlockID] {
        var fenced: [BlockID] = []
        for block in blocks.reversed() {
            if revoking { revoked[Int(block)] = true }
            holders[Int(block)] -= 1
            guard holders[Int(block)] == 0 else { continue }
            linkLast(block)
            guard revoked[Int(block)] else { continue }
            revoked[Int(block)] = false
            fenced.append(block)
        }
        return fenced
    }

    /// Forgets every cached block.
    ///
    /// - Returns: false, and nothing is changed, while a block is held.
    package mutating func reset() -> Bool {
        guard freeCount == count else { return false }
        cached.removeAll()
        for block in hashes.indices { hashes[block] = nil }
        events.append(.cleared)
        return true
    }

    /// The changes of the cached set in their order, each handed out once.
    package mutating func takeEvents() -> [KVEvent] {
        defer { events.removeAll() }
        return events
    }

    private mutating func unlink(_ block: BlockID) {
        let (before, after) = (previous[Int(block)], next[Int(block)])
        next[Int(before)] = after
        previous[Int(after)] = before
        freeCount -= 1
    }

    private mutating func linkLast(_ block: BlockID) {
        let last = previous[count]
        next[Int(last)] = block
        previous[Int(block)] = last
        next[Int(block)] = BlockID(count)
        previous[count] = block
        freeCount += 1
    }
}
