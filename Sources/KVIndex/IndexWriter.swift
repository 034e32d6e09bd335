import Core
import Hashing

/// What the index's lock guards: everything that events change, beside the tables themselves.
///
/// This file holds endpoints, groups and expectations; what events do is in
/// `IndexWriter+Events.swift`.
struct IndexWriter: Sendable {
    /// Where a block is kept beside the tables.
    struct BlockName: Hashable {
        var holder: UInt16
        var tag: UInt64
    }

    let tables: BlockTables
    let blockSize: Int
    let maximumParkedBlockCount: Int

    var endpoints = EndpointRegistry()
    var expectations = Expectations()
    /// Where the sequence goes on after engine blocks that end inside an index block.
    var tails: [BlockName: SequencePoint] = [:]
    var tailBytes = 0
    var parkedBytes = 0
    var admissionCount = 0
    var storesSkippedCount = 0
    var removalsSkippedCount = 0
    /// Memory for the keys of the next event.
    var spareKeys: [UInt64] = []
    /// What changed since it was last taken; nil while nobody asks.
    var changes: [BlockChange]?

    init(tables: BlockTables, blockSize: Int, maximumParkedBlockCount: Int) {
        self.tables = tables
        self.blockSize = blockSize
        self.maximumParkedBlockCount = maximumParkedBlockCount
    }

    /// What belongs to the index beside the tables.
    var otherBytes: Int { tailBytes + parkedBytes + expectations.byteCount }

    /// Follows up on what a call of the tables made them forget.
    mutating func settle() {
        for dropped in tables.takeDropped() {
            let name = BlockName(holder: dropped.holder, tag: dropped.tag)
            if let point = tails.removeValue(forKey: name) { tailBytes -= point.byteCount }
        }
        tables.setOtherBytes(otherBytes)
    }

    // MARK: - Endpoints

    /// The numbers under which an endpoint's blocks are held: its own, then its groups'.
    func holders(of endpoint: EndpointHandle) -> [UInt16] {
        [endpoint.index] + endpoints[endpoint].groups.map(\.holder)
    }

    func counters(of endpoint: EndpointHandle) -> EndpointCounters {
        var counters = endpoints[endpoint].counters
        counters.blockCount = holders(of: endpoint).reduce(0) { $0 + tables.blockCount(of: $1) }
        counters.parkedCount = endpoints[endpoint].parked.storeCount
        return counters
    }

    /// From here on no lookup sees what the endpoint holds; ``clearSome(of:)`` frees the memory.
    mutating func beginClearing(_ endpoint: EndpointHandle) {
        for holder in holders(of: endpoint) { tables.mask(holder) }
        parkedBytes -= endpoints[endpoint].parked.byteCount
        endpoints[endpoint].parked = ParkedStores()
        endpoints[endpoint].counters.clearedCount += 1
    }

    /// Drops some of the blocks of an endpoint; false after the last.
    mutating func clearSome(of endpoint: EndpointHandle) -> Bool {
        defer { settle() }
        return holders(of: endpoint).contains { tables.clearSome(of: $0) }
    }

    /// Lookups see the endpoint again. Its groups are never seen by themselves.
    func endClearing(_ endpoint: EndpointHandle) { tables.unmask(endpoint.index) }

    /// Frees the numbers of an endpoint that is cleared.
    mutating func remove(_ endpoint: EndpointHandle) {
        endExpectations(at: endpoint)
        for group in endpoints[endpoint].groups {
            tables.setGroup(group.holder, of: endpoint.index, rule: nil)
        }
        endpoints.remove(endpoint)
        tables.unmask(endpoint.index)
        settle()
    }

    // MARK: - Groups

    /// The holder for a store's group, which is taken up if it is new; nil if it cannot be indexed.
    ///
    /// The first group of full attention stands for the endpoint; events without a group are its
    /// too, such as those of other tiers.
    mutating func holder(for stored: BlocksStored, at endpoint: EndpointHandle) -> UInt16? {
        let record = endpoints[endpoint]
        if stored.attention == .full {
            switch (record.mainGroup, stored.group) {
            case (nil, let group):
                endpoints[endpoint].mainGroup = group.map(EndpointRegistry.Group.named) ?? .unnamed
                return endpoint.index
            case (_, nil): return endpoint.index
            case (.unnamed?, let group?):
                endpoints[endpoint].mainGroup = .named(group)
                return endpoint.index
            case (.named(let main)?, let group?) where main == group: return endpoint.index
            default: break
            }
        }
        guard let rule = rule(for: stored.attention) else { return nil }
        if let known = record.groups.first(where: { $0.id == stored.group }) {
            return known.holder
        }
        guard record.groups.count < Self.maximumGroupCount, let holder = endpoints.takeNumber()
        else { return nil }
        endpoints[endpoint].groups.append(.init(id: stored.group, holder: holder, rule: rule))
        tables.setGroup(holder, of: endpoint.index, rule: rule)
        return holder
    }

    /// Models have a few; numbers of groups come from engines.
    private static let maximumGroupCount = 16

    private func rule(for attention: AttentionKind) -> GroupRule? {
        switch attention {
        case .full, .slidingWindow(nil): return .prefix
        case .slidingWindow(let tokenCount?):
            // The next token reads one less than the window of those before it.
            let before = max(tokenCount - 1, 1)
            return .window(blockCount: before / blockSize + (before % blockSize > 0 ? 1 : 0))
        case .state: return .state
        case .other: return nil
        }
    }

    /// The holders that a removal concerns, or a store that tells only the place: without a group
    /// all of them.
    func holders(ofGroup group: Int?, at endpoint: EndpointHandle) -> [UInt16] {
        guard let group else { return holders(of: endpoint) }
        let record = endpoints[endpoint]
        if record.mainGroup == nil || record.mainGroup == .named(group)
            || record.mainGroup == .unnamed
        {
            return [endpoint.index]
        }
        return record.groups.filter { $0.id == group }.map(\.holder)
    }

    func rule(of holder: UInt16, at endpoint: EndpointHandle) -> GroupRule? {
        endpoints[endpoint].groups.first { $0.holder == holder }?.rule
    }

    // MARK: - Expected blocks

    /// Notes the blocks that the endpoint does not hold as about to come.
    mutating func expect(_ keys: [UInt64], at endpoint: EndpointHandle, until: MonotonicTime) {
        guard endpoints.contains(endpoint) else { return }
        for holder in holders(of: endpoint) {
            let added = tables.expect(keys.span, at: holder)
            if added.isEmpty { continue }
            expectations.insert(.init(until: until, holder: holder, keys: added))
        }
        while expectations.keyCount > Self.maximumExpectedCount { endFirstExpectation(by: nil) }
        settle()
    }

    /// Bounds memory only: it takes 512 requests of 512 new blocks each within one lifetime.
    private static let maximumExpectedCount = 1 << 18

    mutating func endExpectations(by now: MonotonicTime) {
        while endFirstExpectation(by: now) {}
        settle()
    }

    @discardableResult
    private mutating func endFirstExpectation(by now: MonotonicTime?) -> Bool {
        guard let ended = expectations.popFirst(endedBy: now) else { return false }
        tables.endExpectation(of: ended.keys.span, at: ended.holder)
        return true
    }

    mutating func endExpectations(at endpoint: EndpointHandle) {
        for holder in holders(of: endpoint) {
            for ended in expectations.remove(at: holder) {
                tables.endExpectation(of: ended.keys.span, at: holder)
            }
        }
    }
}
