import Core

/// What one endpoint holds as far as this router knows, and how far Redis knows it. Loop-bound.
///
/// The copy of the blocks beside the index is what makes Redis dispensable: whatever is lost there
/// is written again from here.
struct SharedEndpoint {
    /// How the blocks here compare with those in Redis.
    enum Agreement: Equatable {
        /// Not known: all of Redis' blocks must be read.
        case unknown
        /// They are being read.
        case reading(cursor: String)
        /// The same, but for the changes that wait.
        case reached
    }

    struct Change {
        var block: SharedBlock
        var isStore: Bool
    }

    private struct Held {
        var key: UInt64
        /// Stores that no removal answered yet, by tier.
        var counts = SIMD4<UInt8>(repeating: 0)
        /// Tiers, as bits, that other routers told of and no event has.
        var importedTiers: UInt8 = 0
    }

    /// Whether the engine's events come to this router.
    private(set) var isDirect = false
    /// Whether what Redis had when this router met the endpoint is known here.
    private(set) var isLoaded = false
    /// Under what the blocks are in Redis.
    var number: Int?
    /// What Redis said last of whether all blocks are there under the number: empty until its
    /// writer has written all it knew; then a value that is another one each time.
    var mark: String?
    /// Whether this router is the one that writes the endpoint's blocks, and until when.
    var writesUntil: MonotonicTime?
    /// All blocks are gone since Redis was told last: they get a new number there.
    private(set) var needsNewNumber = false
    private(set) var agreement = Agreement.unknown
    /// What Redis is not told of yet, in order.
    private(set) var changes: [Change] = []

    private var blocks: [UInt64: Held] = [:]
    private(set) var blockCount = 0
    /// What was met while reading.
    private var seen: Set<SharedBlock> = []
    /// The mark while reading; empty if it changed meanwhile.
    private var readingMark = ""
    /// How many of the changes are to be written until Redis has all that was known here when it
    /// was compared.
    private var incompleteCount = 0
    /// Blocks removed before Redis' were known here: what it says of them is old.
    private var removedEarly: Set<UInt64> = []
    private static let maximumRemovedEarlyCount = 1 << 16

    // MARK: - Events of the engine

    /// Events told of blocks. Returns those that the index now counts twice, because it had them
    /// from other routers already.
    mutating func stored(_ stored: some Sequence<SharedBlock>) -> [SharedBlock] {
        becomeDirect()
        var doubled: [SharedBlock] = []
        for block in stored {
            removedEarly.remove(block.engineHash)
            let tier = Int(block.tier.rawValue)
            let bit = UInt8(1) << block.tier.rawValue
            var held = blocks[block.engineHash] ?? Held(key: block.key)
            if held.importedTiers & bit != 0 {
                held.importedTiers &= ~bit
                doubled.append(block)
            } else {
                if held.counts[tier] == 0 {
                    blockCount += 1
                    changes.append(Change(block: block, isStore: true))
                }
                if held.counts[tier] < .max { held.counts[tier] += 1 }
            }
            blocks[block.engineHash] = held
        }
        return doubled
    }

    /// Events told of removals.
    mutating func removed(_ hashes: some Sequence<UInt64>, from tier: Tier) {
        becomeDirect()
        for hash in hashes {
            if !isLoaded { noteRemoval(of: hash) }
            guard let block = takeBack(hash, from: tier) else { continue }
            changes.append(Change(block: block, isStore: false))
        }
    }

    /// The engine dropped everything, or restarted.
    mutating func cleared() {
        becomeDirect()
        blocks = [:]
        blockCount = 0
        changes = []
        removedEarly = []
        // What Redis has is older still.
        isLoaded = true
        needsNewNumber = true
        if agreement != .reached { endReading() }
    }

    private mutating func noteRemoval(of hash: UInt64) {
        removedEarly.insert(hash)
        guard removedEarly.count > Self.maximumRemovedEarlyCount else { return }
        // What Redis has is too old to be of use.
        isLoaded = true
        removedEarly = []
    }

    private mutating func becomeDirect() {
        guard !isDirect else { return }
        isDirect = true
        isLoaded = agreement == .reached && isComplete
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

    // MARK: - What Redis says

    /// Whether there is nothing to compare, or all was.
    var isAgreed: Bool {
        if number == nil, !isDirect { return true }
        return agreement == .reached && (isDirect ? isLoaded : isComplete)
    }

    /// Whether Redis had everything when it was asked last.
    private var isComplete: Bool { mark?.isEmpty == false }

    /// The writer, or the number, is another one now.
    mutating func disagree() {
        // Whose events come here, and who does not write them, has nothing to learn from Redis.
        if isDirect, isLoaded, writesUntil == nil { return endReading() }
        agreement = .unknown
        seen = []
    }

    /// Forgets what waits: it is found again by reading.
    mutating func dropChanges() {
        changes = []
        disagree()
    }

    /// Forgets what waits, because another router tells Redis.
    mutating func dropWaiting() {
        changes = []
    }

    /// The blocks have a new number, under which there is nothing yet.
    mutating func renumbered(to new: Int) {
        number = new
        mark = ""
        needsNewNumber = false
        endReading()
        let known = Set(changes.map(\.block))
        changes =
            held().filter { !known.contains($0) }.map { Change(block: $0, isStore: true) }
            + changes
        incompleteCount = changes.count
    }

    /// Takes blocks that Redis has. Returns what the index must take over.
    mutating func read(_ blocks: [SharedBlock], mark: String, next cursor: String)
        -> [SharedBlock]
    {
        if agreement == .unknown {
            readingMark = mark
        } else if mark != readingMark {
            readingMark = ""
        }
        agreement = .reading(cursor: cursor)
        var new: [SharedBlock] = []
        for block in blocks {
            seen.insert(block)
            guard !holds(block) else { continue }
            if isDirect, isLoaded || removedEarly.contains(block.engineHash) {
                if writesUntil != nil { changes.append(Change(block: block, isStore: false)) }
            } else {
                take(block)
                new.append(block)
            }
        }
        return new
    }

    /// All that Redis has was read. Returns what the index must give back: only of an endpoint of
    /// which other routers tell is Redis right and this router wrong, and only if Redis had
    /// everything; else it is read again when it has.
    mutating func finishReading() -> [SharedBlock] {
        mark = readingMark
        defer { endReading() }
        let more = held().filter { !seen.contains($0) }
        guard !isDirect else {
            let waiting = Set(changes.map(\.block))
            if writesUntil != nil {
                changes += more.filter { !waiting.contains($0) }
                    .map { Change(block: $0, isStore: true) }
                incompleteCount = changes.count
            }
            return []
        }
        return isComplete ? drop(more) : []
    }

    private mutating func endReading() {
        agreement = .reached
        seen = []
        // Who does not write an incomplete endpoint itself reads it again.
        guard isLoaded || isComplete || writesUntil != nil else { return }
        isLoaded = true
        removedEarly = []
    }

    /// Another router told of changes. Returns what is new here.
    mutating func follow(stored: [SharedBlock]) -> [SharedBlock] {
        let new = stored.filter { !holds($0) }
        for block in new { take(block) }
        return new
    }

    /// As ``follow(stored:)``; returns what was here.
    mutating func follow(removed: [SharedBlock]) -> [SharedBlock] { drop(removed) }

    private mutating func take(_ block: SharedBlock) {
        var held = blocks[block.engineHash] ?? Held(key: block.key)
        held.counts[Int(block.tier.rawValue)] = 1
        held.importedTiers |= 1 << block.tier.rawValue
        blocks[block.engineHash] = held
        blockCount += 1
    }

    private mutating func drop(_ dropped: [SharedBlock]) -> [SharedBlock] {
        dropped.filter { takeBack($0.engineHash, from: $0.tier) != nil }
    }

    // MARK: - What Redis is told

    /// The next changes of one kind, `limit` at most.
    mutating func takeChanges(limit: Int) -> (blocks: [SharedBlock], isStore: Bool)? {
        guard let isStore = changes.first?.isStore else { return nil }
        let taken = changes.prefix { $0.isStore == isStore }.prefix(limit)
        let blocks = taken.map(\.block)
        changes.removeFirst(blocks.count)
        incompleteCount = max(0, incompleteCount - blocks.count)
        return (blocks, isStore)
    }

    /// Whether Redis has everything now, and must be told so.
    var canBeMarked: Bool {
        agreement == .reached && mark?.isEmpty == true && incompleteCount == 0 && !needsNewNumber
    }

    private func holds(_ block: SharedBlock) -> Bool {
        blocks[block.engineHash].map { $0.counts[Int(block.tier.rawValue)] > 0 } ?? false
    }

    private func held() -> [SharedBlock] {
        blocks.flatMap { hash, held in
            Tier.allCases.compactMap { tier in
                held.counts[Int(tier.rawValue)] == 0
                    ? nil : SharedBlock(engineHash: hash, key: held.key, tier: tier)
            }
        }
    }
}
