package import Core

/// What one endpoint holds as its events tell this router, and how far Redis is told. Loop-bound.
///
/// Nothing that waits for Redis is a list of changes: each block knows what Redis should have of it
/// and what it has, and waits in a queue, once, while the two differ. So what waits is bounded by
/// what is held, and whatever is lost there is written again from here.
package struct UpstreamEndpoint {
    /// Tiers of a block, each with and without a group, as bits: `2 * tier + isGrouped`. Each is a
    /// field of the block's hash.
    package typealias Fields = UInt8

    /// What events tell of a request key's tier.
    package enum Word {
        /// The endpoint holds it.
        case held
        /// The endpoint held it, and Redis is not told yet that it is gone.
        case gone
        /// Nothing.
        case unknown
    }

    /// A block by its engine hash.
    private struct Held {
        var key: UInt64
        /// Stores that no removal answered yet, by tier.
        var counts = SIMD4<UInt8>(repeating: 0)
        /// Tiers, as bits, whose event named a group.
        var groupedTiers: UInt8 = 0
        /// What Redis has for sure, and what it may have.
        var confirmed: Fields = 0
        var possible: Fields = 0
        var isQueued = false

        var wanted: Fields {
            var fields: Fields = 0
            for tier in 0..<4 where counts[tier] > 0 { fields |= 1 << field(tier) }
            return fields
        }

        var isSettled: Bool { wanted == confirmed && possible == confirmed }

        func field(_ tier: Int) -> Int { 2 * tier + Int(groupedTiers >> tier & 1) }
    }

    /// A block by its request key: an engine may know one block under several hashes.
    private struct Key {
        /// Engine hashes that hold it, by field.
        var holders = SIMD8<UInt8>(repeating: 0)
        /// Engine hashes in the table.
        var hashCount = 0
        /// One of them.
        var hash: UInt64 = 0
    }

    /// A block that is gone without being in the table.
    fileprivate struct Loose {
        var hash: UInt64?
        var key: UInt64?
        var fields: Fields
    }

    /// Whether the engine's events come to this router.
    private(set) package var isDirect = false
    /// Whether events told all that the endpoint holds: it dropped everything since they come.
    private(set) package var isComplete = false
    /// The group that stands for the endpoint.
    private(set) package var group: Int?

    private var blocks: [UInt64: Held] = [:]
    private var keys: [UInt64: Key] = [:]
    private var queue: [UInt64] = []
    private var queueHead = 0
    private var loose: [Loose] = []
    private static let maximumLooseCount = 1 << 16

    /// Nothing held.
    package init() {}

    /// Blocks of which Redis is to be told.
    package var waitingCount: Int { queue.count - queueHead + loose.count }

    /// What events tell of a block.
    package func word(on key: UInt64, in tier: Tier) -> Word {
        guard let known = keys[key] else { return .unknown }
        let first = 2 * Int(tier.rawValue)
        if known.holders[first] > 0 || known.holders[first + 1] > 0 { return .held }
        let possible = blocks[known.hash]?.possible ?? 0
        return possible >> first & 3 != 0 ? .gone : .unknown
    }

    // MARK: - Events of the engine

    /// An event told of a block.
    package mutating func stored(_ hash: UInt64, key: UInt64, in tier: Tier, group: Int?) {
        isDirect = true
        if let group, self.group == nil { self.group = group }
        var held = blocks[hash] ?? Held(key: key)
        if held.key != key {
            // The engine gave the hash to other tokens: it dropped the old ones unseen.
            forget(hash, held)
            held = Held(key: key, isQueued: held.isQueued)
        }
        if blocks[hash] == nil { keys[key, default: Key()].hashCount += 1 }
        keys[key]?.hash = hash
        let place = Int(tier.rawValue)
        if held.counts[place] == 0 {
            held.groupedTiers &= ~(1 << place)
            if group != nil { held.groupedTiers |= 1 << place }
            count(held.field(place), of: key, isAdded: true)
        }
        if held.counts[place] < .max { held.counts[place] += 1 }
        blocks[hash] = held
        enqueue(hash)
    }

    /// An event told of a removal. Returns the request key if the block is known.
    @discardableResult
    package mutating func removed(_ hash: UInt64, from tier: Tier) -> UInt64? {
        isDirect = true
        let place = Int(tier.rawValue)
        guard var held = blocks[hash], held.counts[place] > 0 else {
            // Of what was stored before events came here Redis may know more.
            let key = blocks[hash]?.key
            if !isComplete { disown(hash, key: key, in: tier) }
            return key
        }
        held.counts[place] -= 1
        if held.counts[place] == 0 { count(held.field(place), of: held.key, isAdded: false) }
        blocks[hash] = held
        enqueue(hash)
        return held.key
    }

    /// The engine dropped everything, or restarted.
    package mutating func cleared() {
        isDirect = true
        isComplete = true
        keys = [:]
        blocks = blocks.filter { $0.value.possible != 0 }
        queue = Array(blocks.keys)
        queueHead = 0
        for hash in queue {
            blocks[hash]?.counts = SIMD4(repeating: 0)
            blocks[hash]?.isQueued = true
            guard let key = blocks[hash]?.key else { continue }
            keys[key, default: Key()].hashCount += 1
            keys[key]?.hash = hash
        }
    }

    /// Redis has a block of the endpoint that is not held any more, or never was.
    ///
    /// - Parameters:
    ///   - hash: nil if it is not known.
    ///   - key: nil for whatever Redis has under `hash`.
    package mutating func disown(_ hash: UInt64?, key: UInt64?, in tier: Tier) {
        loosen(Loose(hash: hash, key: key, fields: 3 << (2 * tier.rawValue)))
    }

    /// Where too many wait, the oldest stay in Redis.
    private mutating func loosen(_ block: Loose) {
        if loose.count == Self.maximumLooseCount {
            loose.removeFirst(Self.maximumLooseCount / 16)
        }
        loose.append(block)
    }

    private mutating func count(_ field: Int, of key: UInt64, isAdded: Bool) {
        guard let holders = keys[key]?.holders[field] else { return }
        if isAdded, holders < .max { keys[key]?.holders[field] = holders + 1 }
        if !isAdded, holders > 0 { keys[key]?.holders[field] = holders - 1 }
    }

    /// Takes a block out of the table.
    private mutating func forget(_ hash: UInt64, _ held: Held) {
        for tier in 0..<4 where held.counts[tier] > 0 {
            count(held.field(tier), of: held.key, isAdded: false)
        }
        blocks[hash] = nil
        if let others = keys[held.key]?.hashCount, others > 1 {
            keys[held.key]?.hashCount = others - 1
        } else {
            keys[held.key] = nil
        }
        if held.possible != 0 {
            loosen(Loose(hash: hash, key: held.key, fields: held.possible))
        }
    }

    // MARK: - What Redis is told

    /// Some of what Redis is to be told.
    package struct Work {
        /// A block and its fields to be added.
        package struct Store: Equatable {
            /// Under what the engine knows it.
            package var hash: UInt64
            /// Its request key.
            package var key: UInt64
            /// What is new.
            package var fields: Fields
        }

        /// A block and a field to be taken away.
        package struct Removal: Equatable {
            /// Nil if it is not known.
            package var hash: UInt64?
            /// Nil for what Redis has under the hash.
            package var key: UInt64?
            /// By its bit's number.
            package var field: Int
        }

        /// To be added.
        package var stores: [Store] = []
        /// To be taken away.
        package var removals: [Removal] = []
        /// Whether Redis need not be told anything.
        package var isEmpty: Bool { stores.isEmpty && removals.isEmpty }
        fileprivate var sent: [(hash: UInt64, key: UInt64, fields: Fields)] = []
        fileprivate var loose: [Loose] = []
    }

    private mutating func enqueue(_ hash: UInt64) {
        guard let held = blocks[hash], !held.isQueued else { return }
        if held.isSettled {
            if held.possible == 0 { forget(hash, held) }
            return
        }
        blocks[hash]?.isQueued = true
        queue.append(hash)
    }

    /// Takes up to `limit` blocks from the queue; ``finish(_:)`` or ``putBack(_:)`` must follow.
    package mutating func takeWork(limit: Int) -> Work {
        var work = Work()
        while queueHead < queue.count, work.sent.count < limit {
            let hash = queue[queueHead]
            queueHead += 1
            guard var held = blocks[hash] else { continue }
            held.isQueued = false
            let wanted = held.wanted
            let added = wanted & ~held.confirmed
            let dropped = held.possible & ~wanted
            if added != 0 {
                work.stores.append(Work.Store(hash: hash, key: held.key, fields: added))
            }
            for field in Self.numbers(of: dropped) where keys[held.key]?.holders[field] ?? 0 == 0 {
                work.removals.append(Work.Removal(hash: hash, key: held.key, field: field))
            }
            held.possible |= added
            held.confirmed &= ~dropped
            blocks[hash] = held
            work.sent.append((hash, held.key, wanted))
        }
        if queueHead == queue.count || queueHead > 1 << 16 {
            queue.removeFirst(queueHead)
            queueHead = 0
        }
        let taken = loose.prefix(max(0, limit - work.sent.count))
        for block in taken { takeLoose(block, into: &work) }
        loose.removeFirst(taken.count)
        return work
    }

    private func takeLoose(_ block: Loose, into work: inout Work) {
        // What was stored since is in the table, and is no more gone.
        if block.key == nil, let hash = block.hash, blocks[hash] != nil { return }
        for field in Self.numbers(of: block.fields) {
            if let key = block.key, keys[key]?.holders[field] ?? 0 > 0 { continue }
            work.removals.append(Work.Removal(hash: block.hash, key: block.key, field: field))
        }
        work.loose.append(block)
    }

    /// Redis took it.
    package mutating func finish(_ work: Work) {
        for (hash, key, fields) in work.sent where blocks[hash]?.key == key {
            blocks[hash]?.confirmed = fields
            blocks[hash]?.possible = fields
            enqueue(hash)
        }
    }

    /// Redis did not take it, or who knows.
    package mutating func putBack(_ work: Work) {
        for block in work.sent { enqueue(block.hash) }
        loose.append(contentsOf: work.loose.prefix(Self.maximumLooseCount - loose.count))
    }

    /// Whatever Redis has of it may be lost: all is to be told again.
    package mutating func doubt() {
        for hash in Array(blocks.keys) {
            blocks[hash]?.confirmed = 0
            enqueue(hash)
        }
    }

    /// Whether Redis should have a block in some tier, and has been told.
    package func hasTold(of key: UInt64) -> Bool {
        keys[key].flatMap { blocks[$0.hash] }.map { $0.confirmed & $0.wanted != 0 } ?? false
    }

    /// Redis took a field away that the endpoint still holds.
    package mutating func lost(_ key: UInt64) {
        guard let hash = keys[key]?.hash else { return }
        blocks[hash]?.confirmed = 0
        enqueue(hash)
    }

    private static func numbers(of fields: Fields) -> [Int] {
        (0..<8).filter { fields >> $0 & 1 != 0 }
    }
}
