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
/// time. One lock
/// guards the index: a lookup holds it for its walk, an event for some 64 blocks at a time.
public final class KVIndex: Sendable {
    /// How many endpoints the index can hold at a time.
    public static let maximumEndpointCount = 8000

    /// How the index computes request keys and how much memory it may take.
    public struct Configuration: Equatable, Sendable {
        /// Tokens per index block. Best the engines' own block size, or a divisor of it.
        public var blockSize = 16
        /// The function of the request keys.
        public var algorithm = RequestKeyAlgorithm.xxh64
        /// llm-d's `hashSeed`.
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
    }

    /// As given at the start.
    public let configuration: Configuration

    private let state: Mutex<IndexState>
    private let hashers = Mutex<[String: RequestKeyHasher]>([:])

    /// Blocks of one event that are applied before lookups get their turn.
    private static let stepCount = 64
    /// Hashers of different models that are kept; the names come from engines.
    private static let maximumHasherCount = 1024
    private static let minimumBytes = 1 << 20

    /// Makes an empty index.
    ///
    /// - Throws: ``KVIndexError/configuration(_:)`` if block size or byte budget cannot be.
    public init(configuration: Configuration = Configuration()) throws(KVIndexError) {
        guard configuration.maximumBytes >= Self.minimumBytes else {
            throw .configuration(
                "\(configuration.maximumBytes) bytes are fewer than \(Self.minimumBytes)")
        }
        do {
            _ = try RequestKeyHasher(
                algorithm: configuration.algorithm, model: "", blockSize: configuration.blockSize)
        } catch {
            throw .configuration(error.description)
        }
        self.configuration = configuration
        state = Mutex(
            IndexState(
                maximumBytes: configuration.maximumBytes,
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
        try state.withLock { state throws(KVIndexError) in
            if let known = state.endpoints[name] { return known }
            let handle = try state.endpoints.insert(name)
            state.sets.widen(for: Int(handle.index))
            return handle
        }
    }

    /// The handle of a registered endpoint.
    public func endpoint(named name: String) -> EndpointHandle? {
        state.withLock { $0.endpoints[name] }
    }

    /// Drops an endpoint with all that it holds. Its handle is invalid from now on.
    public func remove(_ endpoint: EndpointHandle) {
        let isKnown = state.withLock { state in
            guard state.endpoints.contains(endpoint) else { return false }
            state.endpoints.forgetName(of: endpoint)
            state.endExpectations(at: endpoint)
            return true
        }
        guard isKnown else { return }
        clear(endpoint)
        state.withLock { state in
            // A late expectation may have slipped in between.
            state.endExpectations(at: endpoint)
            state.endpoints.remove(endpoint)
        }
    }

    /// Drops all blocks of an endpoint: its engine restarted, or dropped them itself.
    public func clear(_ endpoint: EndpointHandle) {
        let isKnown = state.withLock { state in
            guard state.endpoints.contains(endpoint) else { return false }
            state.beginClearing(endpoint)
            return true
        }
        guard isKnown else { return }
        repeat {
            var cursor = FlatTable<EngineBlock>.Cursor()
            while state.withLock({ $0.clearSome(of: endpoint, from: &cursor) }) {}
        } while state.withLock({ $0.endpoints.counters[endpoint].blockCount > 0 })
    }

    /// What the index has seen of an endpoint; nil if it is not registered.
    public func counters(of endpoint: EndpointHandle) -> EndpointCounters? {
        state.withLock { state in
            guard state.endpoints.contains(endpoint) else { return nil }
            var counters = state.endpoints.counters[endpoint]
            counters.parkedCount = state.endpoints[endpoint].parked.storeCount
            return counters
        }
    }

    /// The state of the whole index.
    public var statistics: Statistics {
        state.withLock { state in
            Statistics(
                byteCount: state.byteCount, blockCount: state.blocks.count,
                engineBlockCount: state.engineBlocks.count, endpointCount: state.endpoints.count,
                admissionCount: state.admissionCount, evictionCount: state.evictionCount,
                lookupCount: state.lookupCount, lookupHitCount: state.lookupHitCount,
                storesSkippedCount: state.storesSkippedCount,
                removalsSkippedCount: state.removalsSkippedCount)
        }
    }

    // MARK: - Lookups

    /// How long a prefix of a prompt each endpoint holds.
    ///
    /// - Parameters:
    ///   - keys: the request keys of the prompt's full blocks, in order.
    ///   - now: ends expectations whose time is over.
    ///   - matches: overwritten with the result.
    public func match(
        _ keys: Span<UInt64>, at now: MonotonicTime, into matches: inout PrefixMatches
    ) {
        keys.withUnsafeBufferPointer { keys in
            state.withLock { state in
                state.endExpectations(by: now)
                state.match(keys, into: &matches)
            }
        }
    }

    /// Tells that a request was sent to an endpoint, which will hold the prompt's blocks soon: a
    /// burst of equal prompts follows the first one before its events arrive. Lookups count such
    /// blocks as the GPU's until `until`.
    public func expect(
        _ keys: Span<UInt64>, at endpoint: EndpointHandle, until: MonotonicTime
    ) {
        keys.withUnsafeBufferPointer { keys in
            state.withLock { $0.expect(keys, at: endpoint, until: until) }
        }
    }

    // MARK: - Events

    /// Applies the events of an endpoint in their order.
    ///
    /// - Parameter model: what the engine serves, as requests name it; a LoRA adapter's name, which
    ///   the events tell, takes its place.
    public func apply(_ batch: KVEventBatch, from endpoint: EndpointHandle, model: String) {
        guard state.withLock({ $0.endpoints.contains(endpoint) }) else { return }
        for event in batch.events {
            switch event {
            case .stored(let stored): store(stored, in: batch, at: endpoint, model: model)
            case .removed(let removed): remove(removed, in: batch, at: endpoint)
            case .allCleared: clear(endpoint)
            }
        }
    }

    private func remove(
        _ removed: BlocksRemoved, in batch: KVEventBatch, at endpoint: EndpointHandle
    ) {
        forEachStep(of: removed.hashes) { state, step in
            // A removal without a group concerns all of them.
            let isIndexed =
                removed.group == nil
                || state.isIndexed(group: removed.group, isFullAttention: true, at: endpoint)
            for position in step where isIndexed {
                state.remove(batch.hashes[position], at: endpoint, from: removed.tier)
            }
        }
    }

    private func store(
        _ stored: BlocksStored, in batch: KVEventBatch, at endpoint: EndpointHandle, model: String
    ) {
        guard isIndexable(stored, at: endpoint) else {
            return state.withLock { $0.skipStores(stored.hashes.count, at: endpoint) }
        }
        guard !stored.tokens.isEmpty else {
            return forEachStep(of: stored.hashes) { state, step in
                for position in step {
                    state.storePlace(batch.hashes[position], at: endpoint, in: stored.tier)
                }
            }
        }
        let hasher = hasher(model: stored.loraName ?? model)
        guard let start = start(of: stored, in: batch, at: endpoint, model: model, hasher) else {
            return
        }
        let path = RequestKeyPath(stored, in: batch, from: start, hasher: hasher)
        forEachStep(of: stored.hashes) { state, step in
            for position in step {
                let index = position - stored.hashes.lowerBound
                let isStored = state.store(
                    batch.hashes[position], index, of: path, at: endpoint, in: stored.tier)
                if isStored {
                    state.endpoints.counters[endpoint].storedCount += 1
                } else {
                    state.skipStores(1, at: endpoint)
                }
            }
        }
        for position in stored.hashes {
            unpark(childrenOf: batch.hashes[position], at: endpoint)
        }
    }

    /// Whether the store tells what the index needs, in a group that it indexes.
    private func isIndexable(_ stored: BlocksStored, at endpoint: EndpointHandle) -> Bool {
        // Engines before vLLM 0.14 number adapters: keys under the base model's name would be
        // false.
        if stored.loraID != nil, stored.loraName == nil { return false }
        let (tokenCount, overflow) = stored.hashes.count.multipliedReportingOverflow(
            by: stored.blockSize)
        let isDense = !overflow && tokenCount == stored.tokens.count && !stored.hashes.isEmpty
        let keyCount = stored.blockSize / configuration.blockSize
        guard stored.tokens.isEmpty || isDense, keyCount < EngineBlock.maximumKeyCount else {
            return false
        }
        return state.withLock {
            $0.isIndexed(
                group: stored.group, isFullAttention: stored.isFullAttention, at: endpoint)
        }
    }

    /// Where the store's sequence goes on; nil, and the store parked, if its parent is not known.
    private func start(
        of stored: BlocksStored, in batch: KVEventBatch, at endpoint: EndpointHandle,
        model: String, _ hasher: RequestKeyHasher
    ) -> SequencePoint? {
        guard let parent = stored.parent else {
            return SequencePoint(key: hasher.root, tail: nil, isStart: true)
        }
        return state.withLock { state in
            if let point = state.point(after: parent, of: endpoint) { return point }
            state.park(stored, in: batch, model: model, under: parent, at: endpoint)
            return nil
        }
    }

    /// Applies the stores that waited for a block, and what happened to their blocks since.
    private func unpark(childrenOf hash: UInt64, at endpoint: EndpointHandle) {
        let waiting = state.withLock { $0.takeParked(childrenOf: hash, at: endpoint) }
        for parked in waiting {
            store(parked.event, in: parked.batch, at: endpoint, model: parked.model)
            state.withLock { state in
                for change in parked.later {
                    if change.isStore {
                        state.storePlace(change.hash, at: endpoint, in: change.tier)
                    } else {
                        state.remove(change.hash, at: endpoint, from: change.tier)
                    }
                }
            }
        }
    }

    /// Gives `body` some positions at a time, under the lock.
    private func forEachStep(
        of range: Range<Int>, _ body: (inout IndexState, Range<Int>) -> Void
    ) {
        var position = range.lowerBound
        while position < range.upperBound {
            let end = min(position + Self.stepCount, range.upperBound)
            state.withLock { body(&$0, position..<end) }
            position = end
        }
    }
}
