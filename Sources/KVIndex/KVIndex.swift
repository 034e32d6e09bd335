public import Core
public import Hashing
import Synchronization

/// Which endpoint holds which KV blocks, learned from the engines' events.
///
/// Two keys name a block. An engine's own hash is opaque: it names blocks in that engine's events
/// and means nothing elsewhere. The request key is computed here from the tokens that the events
/// carry, and from a prompt's tokens in the same way; so hash algorithm, seed and block size of
/// the engines do not matter. The model's name, or the LoRA adapter's, is part of each key.
///
/// May be used from any thread; events, clearing and removal of one endpoint must come one at a
/// time. Lookups take no lock and wait for nobody. Events take one, each for its own time, and so
/// do readings of counters.
public final class KVIndex: Sendable {
    /// How many endpoints the index can hold at a time.
    public static let maximumEndpointCount = 8000
    /// How long a hash seed may be. Routers that share an index tell each other theirs.
    public static let maximumHashSeedBytes = 1024

    /// How the index computes request keys and how much memory it may take.
    public struct Configuration: Equatable, Sendable {
        /// Tokens per index block. Best the engines' own block size, or a divisor of it.
        public var blockSize = 16
        /// The function of the request keys.
        public var algorithm = RequestKeyAlgorithm.xxh64
        /// llm-d's `hashSeed`.
        /// At most ``KVIndex/maximumHashSeedBytes`` long.
        public var hashSeed = ""
        /// What the index may take in memory; it forgets blocks to stay below.
        public var maximumBytes = 2 << 30
        /// Blocks of one endpoint that may wait for the announcement of their parent.
        public var maximumParkedBlockCount = 4096

        /// 16 tokens per block, XXH64 keys, 2 GiB.
        public init() {}
    }

    /// The state of the whole index.
    public struct Statistics: Equatable, Sendable {
        /// What the index takes in memory.
        public var byteCount = 0
        /// Different blocks, by request key.
        public var blockCount = 0
        /// Engine hashes known, those of blocks just removed included.
        public var engineBlockCount = 0
        /// Endpoints registered.
        public var endpointCount = 0
        /// Engine hashes taken in so far.
        public var admissionCount = 0
        /// Blocks and engine hashes forgotten to keep the byte budget.
        public var evictionCount = 0
        /// Lookups so far.
        public var lookupCount = 0
        /// Lookups of which some endpoint held at least the first block.
        public var lookupHitCount = 0
        /// Stores that could not be indexed; see ``EndpointCounters/storesSkippedCount``.
        public var storesSkippedCount = 0
        /// Removals of blocks that the index did not know.
        public var removalsSkippedCount = 0
        /// Blocks that stay out because the first 44 bits of their key, scattered, are another's.
        public var conflictCount = 0
    }

    /// As given at the start.
    public let configuration: Configuration
    /// What was looked up lately, as far as those who look up tell.
    public let recentLookups = RecentLookups()

    private let tables: BlockTables
    private let writer: Mutex<IndexWriter>
    private let hashers = Mutex<[String: RequestKeyHasher]>([:])
    /// What `expect` was told; whoever has the lock next notes it, so that no request waits for an
    /// event.
    private let expected = Mutex<[Expected]>([])
    private let expectedCount = Atomic<Int>(0)
    /// When the next expectation ends, in nanoseconds.
    private let nextEnd = Atomic<UInt64>(.max)
    /// Past the highest number of an endpoint.
    private let endpointLimit = Atomic<Int>(0)
    private let endpointChangeCount = Atomic<Int>(0)
    private let lookupCount = Atomic<Int>(0)
    private let lookupHitCount = Atomic<Int>(0)

    private struct Expected {
        var keys: [UInt64]
        var endpoint: EndpointHandle
        var until: MonotonicTime
    }

    /// Requests whose expectations wait while one event is applied; further ones are not noted.
    private static let maximumExpectedCount = 1024
    /// Hashers of different models that are kept; the names come from engines.
    private static let maximumHasherCount = 1024
    private static let minimumBytes = 1 << 20

    /// Makes an empty index.
    ///
    /// - Throws: ``KVIndexError/configuration(_:)`` if block size, seed or byte budget cannot be.
    public init(configuration: Configuration = Configuration()) throws(KVIndexError) {
        guard configuration.maximumBytes >= Self.minimumBytes else {
            throw .configuration(
                "\(configuration.maximumBytes) bytes are fewer than \(Self.minimumBytes)")
        }
        guard configuration.hashSeed.utf8.count <= Self.maximumHashSeedBytes else {
            throw .configuration(
                "a hash seed of \(configuration.hashSeed.utf8.count) bytes is longer than "
                    + "\(Self.maximumHashSeedBytes)")
        }
        do {
            _ = try RequestKeyHasher(
                algorithm: configuration.algorithm, model: "", blockSize: configuration.blockSize)
        } catch {
            throw .configuration(error.description)
        }
        guard let tables = BlockTables(maximumBytes: configuration.maximumBytes) else {
            throw .configuration("no memory for an index")
        }
        self.configuration = configuration
        self.tables = tables
        writer = Mutex(
            IndexWriter(
                tables: tables, blockSize: configuration.blockSize,
                maximumParkedBlockCount: configuration.maximumParkedBlockCount))
    }

    /// What computes the keys of prompts for ``match(_:at:into:)``. `model` is the name by which
    /// the request asks for a model or a LoRA adapter.
    public func hasher(model: String) -> RequestKeyHasher {
        if let known = hashers.withLock({ $0[model] }) { return known }
        guard
            let hasher = try? RequestKeyHasher(
                algorithm: configuration.algorithm, seed: configuration.hashSeed, model: model,
                blockSize: configuration.blockSize)
        else { preconditionFailure("the block size was checked") }
        hashers.withLock { hashers in
            if hashers.count >= Self.maximumHasherCount { hashers.removeAll() }
            hashers[model] = hasher
        }
        return hasher
    }

    // MARK: - Endpoints

    /// The handle of an endpoint, which is registered if it is not yet.
    ///
    /// - Throws: ``KVIndexError/tooManyEndpoints``.
    public func register(_ name: String) throws(KVIndexError) -> EndpointHandle {
        try register(name) { (endpoints) throws(KVIndexError) in try endpoints.insert(name) }
    }

    /// The handle of a data-parallel rank above 0 of an endpoint, registered under `name` if it is
    /// not yet.
    ///
    /// - Throws: ``KVIndexError/tooManyEndpoints``.
    public func register(
        _ name: String, rank: Int, of main: String
    ) throws(KVIndexError) -> EndpointHandle {
        precondition(rank > 0, "rank 0 is the endpoint itself")
        return try register(name) { (endpoints) throws(KVIndexError) in
            try endpoints.insert(name, rank: rank, of: main)
        }
    }

    private func register(
        _ name: String,
        _ insert: (inout EndpointRegistry) throws(KVIndexError) -> EndpointHandle
    ) throws(KVIndexError) -> EndpointHandle {
        try writer.withLock { writer throws(KVIndexError) in
            if let known = writer.endpoints[name] { return known }
            let handle = try insert(&writer.endpoints)
            endpointLimit.store(writer.endpoints.limit, ordering: .releasing)
            endpointChangeCount.add(1, ordering: .releasing)
            return handle
        }
    }

    /// The handle of a registered endpoint.
    public func endpoint(named name: String) -> EndpointHandle? {
        writer.withLock { $0.endpoints[name] }
    }

    /// The handles of endpoints; nil for one that is not registered.
    public func endpoints(named names: [String]) -> [EndpointHandle?] {
        writer.withLock { writer in names.map { writer.endpoints[$0] } }
    }

    /// The ranks of each endpoint in their order, the endpoint itself first; none of one that is
    /// not registered.
    public func ranks(of names: [String]) -> [[EndpointRank]] {
        writer.withLock { writer in names.map { writer.endpoints.ranks(of: $0) } }
    }

    /// Changes with every endpoint that is registered or removed: handles that were looked up
    /// after this was read are good as long as it stays. Takes no lock.
    public var endpointVersion: Int { endpointChangeCount.load(ordering: .acquiring) }

    /// Drops an endpoint with all that it holds: no lookup that begins from now on sees any of it.
    /// Its handle is invalid.
    public func remove(_ endpoint: EndpointHandle) {
        let isKnown = writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return false }
            writer.endpoints.forgetName(of: endpoint)
            endpointChangeCount.add(1, ordering: .releasing)
            writer.beginClearing(endpoint)
            return true
        }
        guard isKnown else { return }
        while write({ $0.clearSome(of: endpoint) }) {}
        write { $0.remove(endpoint) }
    }

    /// Drops all blocks of an endpoint: its engine restarted, or dropped them itself. No lookup
    /// that begins from now on sees any of them.
    public func clear(_ endpoint: EndpointHandle) {
        let isKnown = writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return false }
            writer.beginClearing(endpoint)
            writer.changes?.append(.cleared)
            return true
        }
        guard isKnown else { return }
        while write({ $0.clearSome(of: endpoint) }) {}
        write { $0.endClearing(endpoint) }
    }

    /// What the index has seen of an endpoint; nil if it is not registered.
    public func counters(of endpoint: EndpointHandle) -> EndpointCounters? {
        writer.withLock { writer in
            writer.endpoints.contains(endpoint) ? writer.counters(of: endpoint) : nil
        }
    }

    /// The state of the whole index.
    public var statistics: Statistics {
        writer.withLock { writer in
            var statistics = tables.statistics
            statistics.byteCount += writer.otherBytes
            statistics.endpointCount = writer.endpoints.count
            statistics.admissionCount = writer.admissionCount
            statistics.lookupCount = lookupCount.load(ordering: .relaxed)
            statistics.lookupHitCount = lookupHitCount.load(ordering: .relaxed)
            statistics.storesSkippedCount = writer.storesSkippedCount
            statistics.removalsSkippedCount = writer.removalsSkippedCount
            return statistics
        }
    }

    // MARK: - Lookups

    /// How long a prefix of a prompt each endpoint holds. Takes no lock.
    ///
    /// - Parameters:
    ///   - keys: the request keys of the prompt's full blocks, in order.
    ///   - now: ends expectations whose time is over, unless an event is being applied: then they
    ///     end with it.
    ///   - matches: overwritten with the result.
    public func match(
        _ keys: Span<UInt64>, at now: MonotonicTime, into matches: inout PrefixMatches
    ) {
        if nextEnd.load(ordering: .relaxed) <= now.nanoseconds {
            _ = writer.withLockIfAvailable { writer in
                writer.endExpectations(by: now)
                publishNextEnd(writer)
            }
        }
        keys.withUnsafeBufferPointer { keys in
            matches.find(
                keys, in: tables, endpointLimit: endpointLimit.load(ordering: .acquiring))
        }
        lookupCount.add(1, ordering: .relaxed)
        if !matches.endpoints.isEmpty { lookupHitCount.add(1, ordering: .relaxed) }
    }

    /// Tells that a request was sent to an endpoint, which will hold the prompt's blocks soon: a
    /// burst of equal prompts follows the first one before its events arrive. Lookups count such
    /// blocks as the GPU's until `until`. Does not wait: while an event is being applied it is
    /// noted after it.
    public func expect(
        _ keys: Span<UInt64>, at endpoint: EndpointHandle, until: MonotonicTime
    ) {
        let keys = keys.withUnsafeBufferPointer(Array.init)
        expected.withLock { expected in
            guard expected.count < Self.maximumExpectedCount else { return }
            expected.append(Expected(keys: keys, endpoint: endpoint, until: until))
            expectedCount.store(expected.count, ordering: .releasing)
        }
        noteExpected()
    }

    /// Who finds the lock taken leaves the work to its holder, who looks again after giving it up.
    private func noteExpected() {
        while expectedCount.load(ordering: .acquiring) > 0 {
            let isDone: Void? = writer.withLockIfAvailable { writer in
                let list = expected.withLock { expected in
                    defer {
                        expected.removeAll()
                        expectedCount.store(0, ordering: .releasing)
                    }
                    return expected
                }
                for item in list {
                    writer.expect(item.keys, at: item.endpoint, until: item.until)
                }
                publishNextEnd(writer)
            }
            guard isDone != nil else { return }
        }
    }

    private func publishNextEnd(_ writer: IndexWriter) {
        nextEnd.store(
            writer.expectations.nextEnd?.nanoseconds ?? .max, ordering: .relaxed)
    }

    // MARK: - Events

    /// Applies the events of an endpoint in their order.
    ///
    /// - Parameter model: what the engine serves, as requests name it; a LoRA adapter's name, which
    ///   the events tell, takes its place.
    public func apply(_ batch: KVEventBatch, from endpoint: EndpointHandle, model: String) {
        for event in batch.events {
            switch event {
            case .stored(let stored):
                let model = stored.loraName ?? model
                let hasher = hasher(model: model)
                write { writer in
                    guard writer.endpoints.contains(endpoint) else { return }
                    writer.store(stored, in: batch, at: endpoint, model: model, hasher)
                }
            case .removed(let removed):
                write { writer in
                    guard writer.endpoints.contains(endpoint) else { return }
                    writer.remove(removed, in: batch, at: endpoint)
                }
            case .allCleared: clear(endpoint)
            }
        }
    }

    /// As ``apply(_:from:model:)``, and appends what changed.
    public func apply(
        _ batch: KVEventBatch, from endpoint: EndpointHandle, model: String,
        recording changes: inout [BlockChange]
    ) {
        writer.withLock { $0.changes = [] }
        apply(batch, from: endpoint, model: model)
        changes += writer.withLock { writer in
            defer { writer.changes = nil }
            return writer.changes ?? []
        }
    }

    /// Takes over blocks of which others than the endpoint's events tell, one request key each.
    public func add(
        _ hashes: Span<UInt64>, keys: Span<UInt64>, in tier: Tier, of endpoint: EndpointHandle
    ) {
        writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return }
            writer.admissionCount += tables.store(
                hashes, keys: keys, keysPerBlock: 1, hasTail: false, at: endpoint.index, in: tier)
            writer.settle()
        }
        noteExpected()
    }

    /// Takes one store of each block back.
    public func takeBack(
        _ hashes: Span<UInt64>, from tier: Tier, of endpoint: EndpointHandle
    ) {
        writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return }
            _ = tables.remove(hashes, at: endpoint.index, from: tier)
            writer.settle()
        }
        noteExpected()
    }

    /// Takes over blocks that were added before and may have been forgotten since, to save memory.
    /// Those that are known are stored no more often than before.
    public func renew(
        _ hashes: Span<UInt64>, keys: Span<UInt64>, in tier: Tier, of endpoint: EndpointHandle
    ) {
        writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return }
            var known: [UInt64] = []
            for index in hashes.indices {
                if case .unknown = tables.find(hashes[index], of: endpoint.index) { continue }
                known.append(hashes[index])
            }
            _ = tables.store(
                hashes, keys: keys, keysPerBlock: 1, hasTail: false, at: endpoint.index, in: tier)
            _ = tables.remove(known.span, at: endpoint.index, from: tier)
            writer.settle()
        }
        noteExpected()
    }

    /// Takes back blocks that were added under the hashes `others` and that events have stored
    /// under `hashes` since. They stay, as the events told; a lookup at the same time may miss
    /// them.
    public func takeBack(
        _ others: Span<UInt64>, storedAs hashes: Span<UInt64>, keys: Span<UInt64>, in tier: Tier,
        of endpoint: EndpointHandle
    ) {
        writer.withLock { writer in
            guard writer.endpoints.contains(endpoint) else { return }
            var known: (hashes: [UInt64], keys: [UInt64]) = ([], [])
            for index in hashes.indices {
                guard case .key(keys[index]) = tables.find(hashes[index], of: endpoint.index)
                else { continue }
                known.hashes.append(hashes[index])
                known.keys.append(keys[index])
            }
            // A block is there or not, whatever the number of its hashes: to take back one hash
            // takes the block away, and to store the other once more brings it back.
            _ = tables.remove(others, at: endpoint.index, from: tier)
            _ = tables.store(
                known.hashes.span, keys: known.keys.span, keysPerBlock: 1, hasTail: false,
                at: endpoint.index, in: tier)
            _ = tables.remove(known.hashes.span, at: endpoint.index, from: tier)
            writer.settle()
        }
        noteExpected()
    }

    @discardableResult
    private func write<Result: Sendable>(_ body: (inout IndexWriter) -> Result) -> Result {
        let result = writer.withLock { body(&$0) }
        noteExpected()
        return result
    }
}
