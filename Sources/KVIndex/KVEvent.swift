public import Core

/// A batch of KV events as an engine published it, decoded.
///
/// Hashes, tokens and extra keys of all events lie in one array each, to which the events point:
/// a batch that is decoded into again and again comes to allocate nothing.
public struct KVEventBatch: Sendable {
    /// When the engine sent it, in seconds since 1970 by the engine's clock.
    public package(set) var timestamp = 0.0
    /// The data-parallel rank, if the engine told.
    public package(set) var dataParallelRank: Int?
    /// The events in their order.
    public package(set) var events: [KVEvent] = []
    /// Events of unknown types, which were passed over.
    public package(set) var unknownEventCount = 0

    /// Engine hashes of all events: 64-bit hashes as they are, longer ones by their last 8 bytes.
    public package(set) var hashes: [UInt64] = []
    /// Token ids of all events.
    public package(set) var tokens: [UInt32] = []
    /// Extra keys of all events, in the order of the events and of their blocks.
    public package(set) var extraKeys: [ExtraKey] = []

    /// Something that a block's hash covers beside its tokens.
    public struct ExtraKey: Equatable, Sendable {
        /// The block, by its index in the event.
        public var block: Int
        /// LoRA name, hash of a multimodal item, or cache salt: they come in this order.
        public var value: String
        /// Where a multimodal item begins, in tokens from the block's start; nil where not told.
        public var offset: Int?

        package init(block: Int, value: String, offset: Int?) {
            self.block = block
            self.value = value
            self.offset = offset
        }
    }

    /// An empty batch.
    public init() {}

    /// Empties the batch and keeps its memory.
    package mutating func removeAll() {
        timestamp = 0
        dataParallelRank = nil
        unknownEventCount = 0
        events.removeAll(keepingCapacity: true)
        hashes.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
        extraKeys.removeAll(keepingCapacity: true)
    }

    /// A batch of one of this batch's stores alone, in memory of its own: a slice made an array may
    /// be the whole array, with all the room that it has for larger batches.
    func extracting(_ stored: BlocksStored) -> (BlocksStored, KVEventBatch) {
        var batch = KVEventBatch()
        batch.hashes.append(contentsOf: hashes[stored.hashes])
        batch.tokens.append(contentsOf: tokens[stored.tokens])
        batch.extraKeys.append(contentsOf: extraKeys[stored.extraKeys])
        var event = stored
        event.hashes = batch.hashes.indices
        event.tokens = batch.tokens.indices
        event.extraKeys = batch.extraKeys.indices
        return (event, batch)
    }
}

/// One event of a ``KVEventBatch``.
public enum KVEvent: Equatable, Sendable {
    /// Blocks came to lie in a tier.
    case stored(BlocksStored)
    /// Blocks left a tier.
    case removed(BlocksRemoved)
    /// The engine dropped all its blocks.
    case allCleared
}

/// Consecutive blocks of one sequence that came to lie in a tier (`BlockStored`).
public struct BlocksStored: Equatable, Sendable {
    /// In ``KVEventBatch/hashes``.
    public package(set) var hashes = 0..<0
    /// The engine hash of the block before the first; nil where a sequence starts.
    public package(set) var parent: UInt64?
    /// In ``KVEventBatch/tokens``; empty where the event tells no more than the place.
    public package(set) var tokens = 0..<0
    /// Tokens per block.
    public package(set) var blockSize = 0
    /// The engine's own number of the LoRA adapter, if one is used.
    public package(set) var loraID: Int?
    /// The name of the LoRA adapter; engines before vLLM 0.14 do not tell it.
    public package(set) var loraName: String?
    /// The tier.
    public package(set) var tier = Tier.gpu
    /// In ``KVEventBatch/extraKeys``.
    public package(set) var extraKeys = 0..<0
    /// SGLang's field; vLLM puts the salt among the extra keys.
    public package(set) var cacheSalt: String?
    /// The KV-cache group of a hybrid model.
    public package(set) var group: Int?
    /// What its layers read of a prefix.
    public package(set) var attention = AttentionKind.full

    package init() {}
}

/// What the layers of a KV-cache group read of a prefix (`kv_cache_spec_kind`).
public enum AttentionKind: Equatable, Sendable {
    /// All of it.
    case full
    /// Its last tokens; nil where the event does not tell how many.
    case slidingWindow(tokenCount: Int?)
    /// A state that stands for all of it, kept at the end of some blocks (Mamba).
    case state
    /// Something that no prefix cache can reuse block by block.
    case other
}

/// Blocks that left a tier (`BlockRemoved`).
public struct BlocksRemoved: Equatable, Sendable {
    /// In ``KVEventBatch/hashes``.
    public package(set) var hashes = 0..<0
    /// The tier.
    public package(set) var tier = Tier.gpu
    /// The KV-cache group of a hybrid model.
    public package(set) var group: Int?

    package init() {}
}
