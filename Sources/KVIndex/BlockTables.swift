internal import CKVIndex
import Core

/// The tables of the C core, owned: who holds which blocks, and what the engines' hashes stand for.
///
/// Unchecked: ``match(_:counts:matched:words:limit:)`` may be called from any thread at any time,
/// as CKVIndex.h promises. Everything else is called under the index's lock, by ``IndexWriter``.
final class BlockTables: @unchecked Sendable {
    /// Tells of a block that was forgotten and had a tail; under the lock.
    private final class DropHandler {
        var dropped: [(holder: UInt16, tag: UInt64)] = []
    }

    /// How many holders there can be.
    static let holderLimit = Int(CI_HOLDER_LIMIT)

    private let tables: OpaquePointer
    private let drops: DropHandler

    /// nil if there is no memory for the empty tables.
    init?(maximumBytes: Int) {
        let drops = DropHandler()
        let context = Unmanaged.passUnretained(drops).toOpaque()
        let tables = ci_index_create(
            maximumBytes, .random(in: 0 ... .max),
            { context, holder, tag in
                guard let context else { return }
                Unmanaged<DropHandler>.fromOpaque(context).takeUnretainedValue()
                    .dropped.append((holder, tag))
            }, context)
        guard let tables else { return nil }
        self.tables = tables
        self.drops = drops
    }

    deinit { ci_index_destroy(tables) }

    // MARK: - Lookups

    /// The number of endpoints that hold the first block. See `ci_match`; `counts` is all 0 before.
    func match(
        _ keys: UnsafeBufferPointer<UInt64>, counts: UnsafeMutablePointer<UInt32>,
        matched: UnsafeMutablePointer<UInt16>, words: UnsafeMutablePointer<UInt64>, limit: Int
    ) -> Int {
        var matches = ci_matches(
            limit: limit, counts: counts, matched: matched, words: words, matched_count: 0)
        ci_match(tables, keys.baseAddress, keys.count, &matches)
        return matches.matched_count
    }

    // MARK: - Under the lock

    /// The tables' part of the index's statistics.
    var statistics: KVIndex.Statistics {
        let counts = ci_index_statistics(tables)
        var statistics = KVIndex.Statistics()
        statistics.byteCount = counts.allocated_bytes
        statistics.blockCount = counts.held_block_count
        statistics.engineBlockCount = counts.engine_block_count
        statistics.evictionCount = counts.eviction_count
        statistics.conflictCount = counts.conflict_count
        return statistics
    }

    func setOtherBytes(_ bytes: Int) { ci_index_set_other_bytes(tables, bytes) }

    func hasRoom(for bytes: Int) -> Bool { ci_index_has_room(tables, bytes) }

    /// The blocks with tails that were forgotten since the last call.
    func takeDropped() -> [(holder: UInt16, tag: UInt64)] {
        guard !drops.dropped.isEmpty else { return [] }
        defer { drops.dropped.removeAll(keepingCapacity: true) }
        return drops.dropped
    }

    func mask(_ holder: UInt16) { ci_holder_mask(tables, holder) }

    func unmask(_ holder: UInt16) { ci_holder_unmask(tables, holder) }

    /// Forgets some blocks of a holder; false when none is left.
    func clearSome(of holder: UInt16) -> Bool {
        ci_holder_clear(tables, holder, Self.clearStepCount) > 0
    }

    private static let clearStepCount = 2048

    func blockCount(of holder: UInt16) -> Int { ci_holder_block_count(tables, holder) }

    func setGroup(_ holder: UInt16, of endpoint: UInt16, rule: GroupRule?) {
        switch rule {
        case nil: ci_holder_set_group(tables, endpoint, holder, CI_GROUP_NONE, 0)
        case .prefix: ci_holder_set_group(tables, endpoint, holder, CI_GROUP_PREFIX, 0)
        case .state: ci_holder_set_group(tables, endpoint, holder, CI_GROUP_STATE, 0)
        case .window(let blockCount):
            ci_holder_set_group(
                tables, endpoint, holder, CI_GROUP_WINDOW, UInt32(clamping: blockCount))
        }
    }

    /// Stores blocks of which each completes `keysPerBlock` of `keys`; the number stored.
    func store(
        _ hashes: Span<UInt64>, keys: Span<UInt64>, keysPerBlock: Int, hasTail: Bool,
        at holder: UInt16, in tier: Tier
    ) -> Int {
        precondition(hashes.count * keysPerBlock == keys.count, "so many keys for each block")
        return hashes.withUnsafeBufferPointer { hashes in
            keys.withUnsafeBufferPointer { keys in
                ci_store(
                    tables, holder, UInt32(tier.rawValue), hashes.baseAddress, hashes.count,
                    keys.baseAddress, keysPerBlock, hasTail)
            }
        }
    }

    /// Stores known blocks in a further tier; returns the unknown ones.
    func storePlaces(_ hashes: Span<UInt64>, at holder: UInt16, in tier: Tier) -> [UInt64] {
        collectUnknown(hashes) {
            ci_store_place(tables, holder, UInt32(tier.rawValue), $0, $1, $2)
        }
    }

    /// Takes back a store of each; returns those that had none.
    func remove(_ hashes: Span<UInt64>, at holder: UInt16, from tier: Tier) -> [UInt64] {
        collectUnknown(hashes) {
            ci_remove(tables, holder, UInt32(tier.rawValue), $0, $1, $2)
        }
    }

    private func collectUnknown(
        _ hashes: Span<UInt64>,
        _ body: (UnsafePointer<UInt64>?, Int, UnsafeMutablePointer<UInt64>?) -> Int
    ) -> [UInt64] {
        hashes.withUnsafeBufferPointer { hashes in
            withUnsafeTemporaryAllocation(of: UInt64.self, capacity: hashes.count) { unknown in
                let count = body(hashes.baseAddress, hashes.count, unknown.baseAddress)
                return Array(unknown.prefix(count))
            }
        }
    }

    enum Found {
        case unknown
        /// With the last request key of the block.
        case key(UInt64)
        /// Where the sequence goes on is kept under the tag.
        case tail(UInt64)
        /// Forgotten to keep the byte budget.
        case evicted
    }

    func find(_ hash: UInt64, of holder: UInt16) -> Found {
        var key: UInt64 = 0
        switch ci_find(tables, holder, hash, &key) {
        case CI_KEY: return .key(key)
        case CI_TAIL: return .tail(tag(hash))
        case CI_EVICTED: return .evicted
        default: return .unknown
        }
    }

    func tag(_ hash: UInt64) -> UInt64 { ci_tag(tables, hash) }

    /// Adds the blocks that the holder does not hold on its GPU; returns their keys.
    func expect(_ keys: Span<UInt64>, at holder: UInt16) -> [UInt64] {
        collectUnknown(keys) { ci_expect(tables, holder, $0, $1, $2) }
    }

    func endExpectation(of keys: Span<UInt64>, at holder: UInt16) {
        keys.withUnsafeBufferPointer {
            ci_expect_end(tables, holder, $0.baseAddress, $0.count)
        }
    }
}

/// What of a group of a hybrid model must be there for a prefix to be reused.
enum GroupRule: Equatable, Sendable {
    /// All of it.
    case prefix
    /// Its last blocks.
    case window(blockCount: Int)
    /// Its last block.
    case state
}
