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
        /// Whether Redis has the engine key for sure, and whether it may have it.
        var isTold = false
        var mayBeTold = false
        var isQueued = false

        var isHeld: Bool { counts != SIMD4(repeating: 0) }

        func field(_ tier: Int) -> Int { 2 * tier + Int(groupedTiers >> tier & 1) }
    }

    /// A block by its request key: an engine may know one block under several hashes.
    private struct Key {
        /// Tells it from others that had the request key before.
        let serial: UInt32
        /// Engine hashes that hold it, by field.
        var holders = SIMD8<UInt8>(repeating: 0)
        /// What Redis has for sure, and what it may have.
        var confirmed: Fields = 0
        var possible: Fields = 0
        /// Engine hashes in the table, and the last of them that was stored.
        var hashCount = 0
        var hash: UInt64?

        /// What Redis should have.
        var wanted: Fields {
            var fields: Fields = 0
            for field in 0..<8 where holders[field] > 0 { fields |= 1 << field }
            return fields
        }

        var isSettled: Bool { wanted == confirmed && possible == confirmed }
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
    private var nextSerial: UInt32 = 0
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
        return known.possible >> first & 3 != 0 ? .gone : .unknown
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
        if blocks[hash] == nil { addHash(to: key) }
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
        let known = keys
        blocks = blocks.filter { $0.value.mayBeTold || known[$0.value.key]?.possible ?? 0 != 0 }
        keys = [:]
        queue = Array(blocks.keys)
        queueHead = 0
        for hash in queue {
            blocks[hash]?.counts = SIMD4(repeating: 0)
            blocks[hash]?.isQueued = true
            guard let key = blocks[hash]?.key, var block = known[key] else { continue }
            block.holders = SIMD8(repeating: 0)
            block.hashCount = (keys[key]?.hashCount ?? 0) + 1
            block.hash = hash
            keys[key] = block
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

    private mutating func addHash(to key: UInt64) {
        if keys[key] == nil {
            keys[key] = Key(serial: nextSerial)
            nextSerial &+= 1
        }
        keys[key]?.hashCount += 1
    }

    private mutating func count(_ field: Int, of key: UInt64, isAdded: Bool) {
        guard let holders = keys[key]?.holders[field] else { return }
        if isAdded, holders < .max { keys[key]?.holders[field] = holders + 1 }
        if !isAdded, holders > 0 { keys[key]?.holders[field] = holders - 1 }
    }

    /// Takes a block out of the table, whatever Redis has of it.
    private mutating func forget(_ hash: UInt64, _ held: Held) {
        for tier in 0..<4 where held.counts[tier] > 0 {
            count(held.field(tier), of: held.key, isAdded: false)
        }
        blocks[hash] = nil
        guard var block = keys[held.key] else { return }
        let left = block.possible & ~block.wanted
        if left != 0 { loosen(Loose(hash: hash, key: held.key, fields: left)) }
        block.hashCount -= 1
        if block.hash == hash { block.hash = nil }
        keys[held.key] = block.hashCount > 0 ? block : nil
    }

    // MARK: - What Redis is told

    /// Some of what Redis is to be told.
    package struct Work {
        /// A block and its fields to be added.
        package struct Store: Equatable {
            /// An engine hash to be added; nil if there is none.
            package var hash: UInt64?
            /// Its request key.
            package var key: UInt64
            /// What is new; none if the engine hash alone is.
            package var fields: Fields
        }

        /// A block and a field to be taken away.
        package struct Removal: Equatable {
            /// Nil if it is not known.
            package var hash: UInt64?
            /// Nil for what Redis has under the hash.
            package var key: UInt64?
            /// By its bit's number; nil for none, where the engine hash alone is to go.
            package var field: Int?
        }

        /// To be added.
        package var stores: [Store] = []
        /// To be taken away.
        package var removals: [Removal] = []
        /// Whether Redis need not be told anything.
        package var isEmpty: Bool { stores.isEmpty && removals.isEmpty }
        fileprivate var sent: [Sent] = []
        fileprivate var loose: [Loose] = []
    }

    /// What Redis has of a block when it took the work.
    fileprivate struct Sent {
        var hash: UInt64
        var isHeld: Bool
        var key: UInt64
        var serial: UInt32
        var fields: Fields
    }

    private mutating func enqueue(_ hash: UInt64) {
        guard let held = blocks[hash], !held.isQueued else { return }
        if keys[held.key]?.isSettled == true, held.isTold == held.isHeld,
            held.mayBeTold == held.isHeld
        {
            if !held.isHeld { forget(hash, held) }
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
            blocks[hash]?.isQueued = false
            take(hash, into: &work)
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

    private mutating func take(_ hash: UInt64, into work: inout Work) {
        guard var held = blocks[hash], var block = keys[held.key] else { return }
        let wanted = block.wanted
        let added = wanted & ~block.confirmed
        let dropped = block.possible & ~wanted
        let isNew = held.isHeld && !held.isTold
        if added != 0 || isNew {
            work.stores.append(
                Work.Store(hash: isNew ? hash : nil, key: held.key, fields: added))
        }
        for field in Self.numbers(of: dropped) {
            work.removals.append(Work.Removal(hash: hash, key: held.key, field: field))
        }
        if !held.isHeld, held.mayBeTold, dropped == 0 {
            work.removals.append(Work.Removal(hash: hash, key: held.key, field: nil))
        }
        held.isTold = held.isTold && held.isHeld
        held.mayBeTold = held.mayBeTold || isNew
        block.possible |= added
        block.confirmed &= ~dropped
        blocks[hash] = held
        keys[held.key] = block
        work.sent.append(
            Sent(
                hash: hash, isHeld: held.isHeld, key: held.key, serial: block.serial,
                fields: wanted))
    }

    private mutating func takeLoose(_ block: Loose, into work: inout Work) {
        // What was stored since is in the table, and is no more gone.
        if block.key == nil, let hash = block.hash, blocks[hash] != nil { return }
        var block = block
        if let key = block.key, let known = keys[key] {
            block.fields &= ~known.wanted
            keys[key]?.confirmed &= ~block.fields
        }
        for field in Self.numbers(of: block.fields) {
            work.removals.append(Work.Removal(hash: block.hash, key: block.key, field: field))
        }
        if block.fields != 0 { work.loose.append(block) }
    }

    /// Redis took it.
    package mutating func finish(_ work: Work) {
        for block in work.loose {
            if let key = block.key { keys[key]?.possible &= ~block.fields }
        }
        for sent in work.sent {
            if keys[sent.key]?.serial == sent.serial {
                keys[sent.key]?.confirmed = sent.fields
                keys[sent.key]?.possible = sent.fields
            }
            if blocks[sent.hash]?.key == sent.key {
                blocks[sent.hash]?.isTold = sent.isHeld
                blocks[sent.hash]?.mayBeTold = sent.isHeld
            }
        }
        enqueueAgain(work)
    }

    /// Redis did not take it, or who knows.
    package mutating func putBack(_ work: Work) {
        loose.append(contentsOf: work.loose.prefix(Self.maximumLooseCount - loose.count))
        enqueueAgain(work)
    }

    private mutating func enqueueAgain(_ work: Work) {
        for sent in work.sent {
            enqueue(sent.hash)
            if let hash = keys[sent.key]?.hash { enqueue(hash) }
        }
    }

    /// Whatever Redis has of it may be lost: all is to be told again.
    package mutating func doubt() {
        for key in Array(keys.keys) { keys[key]?.confirmed = 0 }
        for hash in Array(blocks.keys) {
            blocks[hash]?.isTold = false
            enqueue(hash)
        }
    }

    /// Whether Redis should have a block in some tier, and has been told.
    package func hasTold(of key: UInt64) -> Bool {
        keys[key].map { $0.confirmed & $0.wanted != 0 } ?? false
    }

    /// Redis took a field away that the endpoint still holds.
    package mutating func lost(_ key: UInt64) {
        guard let hash = keys[key]?.hash else { return }
        keys[key]?.confirmed = 0
        enqueue(hash)
    }

    private static func numbers(of fields: Fields) -> [Int] {
        (0..<8).filter { fields >> $0 & 1 != 0 }
    }
}
