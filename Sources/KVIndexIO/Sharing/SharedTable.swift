import Core
import KVIndex

/// What one endpoint holds as far as this router knows, by its engine's events and by what others
/// tell of it. Loop-bound.
///
/// A copy of the blocks beside the index: it knows which of them only others told of, so that the
/// word of the events takes its place, and can be told to others from the beginning.
struct SharedTable {
    /// What an event changed.
    enum Effect: Equatable {
        /// Nothing that others must know.
        case none
        /// The endpoint holds the block now.
        case stored(SharedBlock)
        /// It holds it no more.
        case removed(SharedBlock)
        /// The index now counts the block twice, because it had it from others already.
        case doubled(SharedBlock)
        /// All blocks are gone.
        case cleared
    }

    private struct Held {
        var key: UInt64
        /// Stores that no removal answered yet, by tier.
        var counts = SIMD4<UInt8>(repeating: 0)
        /// Tiers, as bits, that others told of and no event has.
        var importedTiers: UInt8 = 0
    }

    /// Whether the engine's events come to this router.
    private(set) var isDirect = false
    /// Whether what others knew is known here. Of an endpoint with events nothing more is taken
    /// over then.
    private(set) var isLoaded = false
    /// Blocks, counted once for each tier.
    private(set) var blockCount = 0

    private var blocks: [UInt64: Held] = [:]
    /// What was met while reading.
    private var seen: Set<SharedBlock> = []
    /// Blocks removed before the others' were known here: what they say of them is old.
    private var removedEarly: Set<UInt64> = []
    private static let maximumRemovedEarlyCount = 1 << 16
    /// As many stores of a block as the index counts.
    private static let maximumStoreCount: UInt8 = 15

    // MARK: - Events of the engine

    /// An event's change.
    mutating func apply(_ change: BlockChange) -> Effect {
        switch change {
        case .stored: SharedBlock(change).map { store($0) } ?? .none
        case .removed(let hash, let tier): remove(hash, from: tier)
        case .cleared: clear()
        }
    }

    /// An event told of a block.
    mutating func store(_ block: SharedBlock) -> Effect {
        isDirect = true
        removedEarly.remove(block.engineHash)
        let tier = Int(block.tier.rawValue)
        let bit = UInt8(1) << block.tier.rawValue
        var held = blocks[block.engineHash] ?? Held(key: block.key)
        defer { blocks[block.engineHash] = held }
        if held.importedTiers & bit != 0 {
            held.importedTiers &= ~bit
            return .doubled(block)
        }
        defer { if held.counts[tier] < Self.maximumStoreCount { held.counts[tier] += 1 } }
        guard held.counts[tier] == 0 else { return .none }
        blockCount += 1
        return .stored(block)
    }

    /// An event told of a removal.
    mutating func remove(_ hash: UInt64, from tier: Tier) -> Effect {
        isDirect = true
        if !isLoaded { noteRemoval(of: hash) }
        return takeBack(hash, from: tier).map { .removed($0) } ?? .none
    }

    /// The engine dropped everything, or restarted.
    mutating func clear() -> Effect {
        isDirect = true
        blocks = [:]
        blockCount = 0
        // What others know is older still.
        setLoaded()
        return .cleared
    }

    /// A batch of events came, whatever it told.
    mutating func hearEvents() { isDirect = true }

    /// Events come no more: what they told counts once, and no more than what others tell. Returns
    /// the stores that the index counts beyond that.
    mutating func loseEvents() -> [SharedBlock] {
        isDirect = false
        isLoaded = false
        seen = []
        removedEarly = []
        var surplus: [SharedBlock] = []
        var index = blocks.startIndex
        while index != blocks.endIndex {
            for tier in Tier.allCases {
                let count = blocks.values[index].counts[Int(tier.rawValue)]
                guard count > 0 else { continue }
                blocks.values[index].counts[Int(tier.rawValue)] = 1
                blocks.values[index].importedTiers |= 1 << tier.rawValue
                let block = SharedBlock(
                    engineHash: blocks.keys[index], key: blocks.values[index].key, tier: tier)
                surplus += repeatElement(block, count: Int(count) - 1)
            }
            blocks.formIndex(after: &index)
        }
        return surplus
    }

    private mutating func noteRemoval(of hash: UInt64) {
        removedEarly.insert(hash)
        // What others know is too old to be of use.
        if removedEarly.count > Self.maximumRemovedEarlyCount { setLoaded() }
    }

    /// Takes one store back; the block if it was the last one in the tier.
    private mutating func takeBack(_ hash: UInt64, from tier: Tier) -> SharedBlock? {
        guard var held = blocks[hash], held.counts[Int(tier.rawValue)] > 0 else { return nil }
        held.counts[Int(tier.rawValue)] -= 1
        held.importedTiers &= ~(1 << tier.rawValue)
        let isLast = held.counts[Int(tier.rawValue)] == 0
        blocks[hash] = held.counts == SIMD4(repeating: 0) ? nil : held
        guard isLast else { return nil }
        blockCount -= 1
        return SharedBlock(engineHash: hash, key: held.key, tier: tier)
    }

    // MARK: - What others say

    /// All that others know is about to be read. Until it is, an endpoint without events is not
    /// loaded.
    mutating func beginReading() {
        if !isDirect { isLoaded = false }
        seen = []
    }

    /// Takes blocks that others know. Returns those that are new here, which the index must take
    /// over, and those that the events here know better.
    mutating func read(_ blocks: [SharedBlock]) -> (new: [SharedBlock], refused: [SharedBlock]) {
        var new: [SharedBlock] = []
        var refused: [SharedBlock] = []
        for block in blocks {
            seen.insert(block)
            guard !holds(block) else { continue }
            if isRefused(block) {
                refused.append(block)
            } else {
                take(block)
                new.append(block)
            }
        }
        return (new, refused)
    }

    /// The blocks that are here, and were not read.
    func unread() -> [SharedBlock] { held().filter { !seen.contains($0) } }

    /// The end of a reading.
    mutating func endReading() { seen = [] }

    /// What others knew is known here.
    mutating func setLoaded() {
        isLoaded = true
        removedEarly = []
    }

    /// Others may know more than is known here.
    mutating func setUnloaded() { isLoaded = false }

    /// Others told of changes. Returns what is new here.
    mutating func follow(stored: [SharedBlock]) -> [SharedBlock] {
        let new = stored.filter { !holds($0) && !isRefused($0) }
        for block in new { take(block) }
        return new
    }

    /// As ``follow(stored:)``; returns what was here. What events told of stays.
    mutating func follow(removed: [SharedBlock]) -> [SharedBlock] {
        removed.filter { block in
            guard let held = blocks[block.engineHash],
                !isDirect || held.importedTiers & 1 << block.tier.rawValue != 0
            else { return false }
            return takeBack(block.engineHash, from: block.tier) != nil
        }
    }

    private func isRefused(_ block: SharedBlock) -> Bool {
        isDirect && (isLoaded || removedEarly.contains(block.engineHash))
    }

    private mutating func take(_ block: SharedBlock) {
        var held = blocks[block.engineHash] ?? Held(key: block.key)
        held.counts[Int(block.tier.rawValue)] = 1
        held.importedTiers |= 1 << block.tier.rawValue
        blocks[block.engineHash] = held
        blockCount += 1
    }

    // MARK: - What others can be told

    private func holds(_ block: SharedBlock) -> Bool {
        blocks[block.engineHash].map { $0.counts[Int(block.tier.rawValue)] > 0 } ?? false
    }

    /// All blocks.
    func held() -> [SharedBlock] { blocks.keys.flatMap { held($0) } }

    /// The engine's hashes of all blocks.
    var hashes: [UInt64] { Array(blocks.keys) }

    /// A block, once for each tier that holds it.
    func held(_ hash: UInt64) -> [SharedBlock] {
        guard let held = blocks[hash] else { return [] }
        return Tier.allCases.compactMap { tier in
            held.counts[Int(tier.rawValue)] == 0
                ? nil : SharedBlock(engineHash: hash, key: held.key, tier: tier)
        }
    }
}
