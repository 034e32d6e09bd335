import Core
import KVIndex

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

    /// What is known here.
    private(set) var table = SharedTable()
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
    /// The mark while reading; empty if it changed meanwhile.
    private var readingMark = ""
    /// How many of the changes are to be written until Redis has all that was known here when it
    /// was compared.
    private var incompleteCount = 0

    /// False from when the engine's events are lost until they come again.
    var mayWrite = true

    /// Whether the engine's events come to this router, or came.
    var isDirect: Bool { table.isDirect }

    /// Whether this router should be the one that writes.
    var wantsLease: Bool { isDirect && mayWrite }

    // MARK: - Events of the engine

    /// Takes an event's change. Returns the block if the index now counts it twice.
    mutating func apply(_ change: BlockChange) -> SharedBlock? { note(table.apply(change)) }

    /// Takes a block that an event told of; as ``apply(_:)``.
    mutating func store(_ block: SharedBlock) -> SharedBlock? { note(table.store(block)) }

    /// Takes a removal that an event told of.
    mutating func remove(_ hash: UInt64, from tier: Tier) {
        _ = note(table.remove(hash, from: tier))
    }

    /// The engine dropped everything, or restarted.
    mutating func clear() { _ = note(table.clear()) }

    private mutating func note(_ effect: SharedTable.Effect) -> SharedBlock? {
        switch effect {
        case .none: break
        case .stored(let block): changes.append(Change(block: block, isStore: true))
        case .removed(let block): changes.append(Change(block: block, isStore: false))
        case .doubled(let block): return block
        case .cleared:
            changes = []
            needsNewNumber = true
            if agreement != .reached { endReading() }
        }
        return nil
    }

    // MARK: - What Redis says

    /// Whether there is nothing to compare, or all was.
    var isAgreed: Bool {
        if number == nil, !isDirect { return true }
        return agreement == .reached && (isDirect ? table.isLoaded : isComplete)
    }

    /// Whether Redis had everything when it was asked last.
    private var isComplete: Bool { mark?.isEmpty == false }

    /// The writer, or the number, is another one now.
    mutating func disagree() {
        // Whose events come here, and who does not write them, has nothing to learn from Redis.
        if isDirect, table.isLoaded, writesUntil == nil { return endReading() }
        agreement = .unknown
        table.beginReading()
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
            table.held().filter { !known.contains($0) }.map { Change(block: $0, isStore: true) }
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
        let (new, refused) = table.read(blocks)
        if writesUntil != nil {
            changes += refused.map { Change(block: $0, isStore: false) }
        }
        return new
    }

    /// All that Redis has was read. Returns what the index must give back: only of an endpoint of
    /// which other routers tell is Redis right and this router wrong, and only if Redis had
    /// everything; else it is read again when it has.
    mutating func finishReading() -> [SharedBlock] {
        mark = readingMark
        defer { endReading() }
        let more = table.unread()
        guard !isDirect else {
            let waiting = Set(changes.map(\.block))
            if writesUntil != nil {
                changes += more.filter { !waiting.contains($0) }
                    .map { Change(block: $0, isStore: true) }
                incompleteCount = changes.count
            }
            return []
        }
        return isComplete ? table.follow(removed: more) : []
    }

    private mutating func endReading() {
        agreement = .reached
        table.endReading()
        // Who does not write an incomplete endpoint itself reads it again.
        if isComplete || writesUntil != nil { table.setLoaded() }
    }

    /// Another router told of changes. Returns what is new here.
    mutating func follow(stored: [SharedBlock]) -> [SharedBlock] { table.follow(stored: stored) }

    /// As ``follow(stored:)``; returns what was here.
    mutating func follow(removed: [SharedBlock]) -> [SharedBlock] {
        table.follow(removed: removed)
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
}
