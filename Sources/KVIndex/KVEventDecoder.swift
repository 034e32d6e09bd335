import Core
import Scan

/// Decodes KV-event batches of vLLM (0.9 to 0.33) and SGLang: MessagePack, events as positional
/// arrays or as maps. Fields and events that it does not know are passed over.
public enum KVEventDecoder {
    /// Decodes a payload into `batch`, whose content is replaced and whose memory is used again.
    ///
    /// - Throws: ``KVIndexError/malformedEvents(offset:reason:)``; `batch` is empty then.
    public static func decode(
        _ payload: UnsafeRawBufferPointer, into batch: inout KVEventBatch
    ) throws(KVIndexError) {
        batch.removeAll()
        var reader = MessagePackReader(payload)
        do throws(ScanError) {
            try decodeBatch(&reader, &batch)
            guard reader.isAtEnd else {
                throw ScanError(offset: reader.offset, reason: .trailingText)
            }
        } catch {
            batch.removeAll()
            throw .malformedEvents(offset: error.offset, reason: error.reason.message)
        }
    }

    /// The data-parallel rank that a batch is of; nil if it names none. Its events are passed over.
    ///
    /// - Throws: ``KVIndexError/malformedEvents(offset:reason:)`` if it cannot be told.
    public static func rank(
        of payload: UnsafeRawBufferPointer
    ) throws(KVIndexError) -> Int? {
        var reader = MessagePackReader(payload)
        do throws(ScanError) {
            guard try reader.arrayCount() > 2 else { return nil }
            try reader.skip()
            try reader.skip()
            return try integer(&reader)
        } catch {
            throw .malformedEvents(offset: error.offset, reason: error.reason.message)
        }
    }

    /// `[timestamp, [event, …], data-parallel rank]`; the rank may be nil or missing.
    private static func decodeBatch(
        _ reader: inout MessagePackReader, _ batch: inout KVEventBatch
    ) throws(ScanError) {
        let start = reader.offset
        let count = try reader.arrayCount()
        guard count >= 2 else { throw ScanError(offset: start, reason: .kind) }
        batch.timestamp = try reader.double()
        for _ in 0..<(try reader.arrayCount()) { try decodeEvent(&reader, &batch) }
        if count > 2 { batch.dataParallelRank = try integer(&reader) }
        for _ in 3..<max(count, 3) { try reader.skip() }
    }

    // MARK: - Events

    private enum EventType {
        case stored, removed, cleared

        init?(_ name: UnsafeRawBufferPointer) {
            if name.equals("BlockStored") {
                self = .stored
            } else if name.equals("BlockRemoved") {
                self = .removed
            } else if name.equals("AllBlocksCleared") {
                self = .cleared
            } else {
                return nil
            }
        }
    }

    /// The fields that matter here.
    private enum Field {
        case blockHashes, parent, tokenIDs, blockSize, loraID, medium, loraName, extraKeys
        case group, attention, window, locality, cacheSalt
    }

    /// The order of positional encodings; nil for what is passed over.
    private static let storedOrder: [Field?] = [
        .blockHashes, .parent, .tokenIDs, .blockSize, .loraID, .medium, .loraName, .extraKeys,
        .group, .attention, .window, .locality,
    ]
    private static let removedOrder: [Field?] = [.blockHashes, .medium, .group, .locality]

    private static func field(named name: UnsafeRawBufferPointer) -> Field? {
        switch name.count {
        case 6: name.equals("medium") ? .medium : nil
        case 7: name.equals("lora_id") ? .loraID : nil
        case 8: name.equals("locality") ? .locality : nil
        case 9:
            name.equals("token_ids")
                ? .tokenIDs
                : name.equals("lora_name") ? .loraName : name.equals("group_idx") ? .group : nil
        case 10:
            name.equals("block_size")
                ? .blockSize
                : name.equals("extra_keys")
                    ? .extraKeys : name.equals("cache_salt") ? .cacheSalt : nil
        case 12: name.equals("block_hashes") ? .blockHashes : nil
        case 17: name.equals("parent_block_hash") ? .parent : nil
        case 18: name.equals("kv_cache_spec_kind") ? .attention : nil
        case 28: name.equals("kv_cache_spec_sliding_window") ? .window : nil
        default: nil
        }
    }

    /// What the fields of an event add up to.
    private struct Fields {
        var stored = BlocksStored()
        var isRemote = false
        var hasHashes = false
        var windowTokenCount: Int?
    }

    private static func decodeEvent(
        _ reader: inout MessagePackReader, _ batch: inout KVEventBatch
    ) throws(ScanError) {
        let start = reader.offset
        var fields = Fields()
        let type: EventType?
        switch try reader.next() {
        case .array(let count) where count > 0:
            type = EventType(try reader.stringBytes())
            let order = type == .stored ? storedOrder : removedOrder
            for index in 0..<(count - 1) {
                let field = type != nil && index < order.count ? order[index] : nil
                try decode(field, &reader, &batch, &fields)
            }
        case .map(let count):
            type = try eventType(ofMap: reader, count)
            for _ in 0..<count {
                let field = field(named: try reader.stringBytes())
                try decode(type == nil ? nil : field, &reader, &batch, &fields)
            }
        default:
            throw ScanError(offset: start, reason: .kind)
        }
        guard let type else {
            batch.unknownEventCount += 1
            return
        }
        if fields.isRemote { fields.stored.tier = .remote }
        if case .slidingWindow = fields.stored.attention {
            fields.stored.attention = .slidingWindow(tokenCount: fields.windowTokenCount)
        }
        guard type == .cleared || fields.hasHashes else {
            throw ScanError(offset: start, reason: .expectedValue)
        }
        switch type {
        case .stored: batch.events.append(.stored(fields.stored))
        case .removed:
            var removed = BlocksRemoved()
            removed.hashes = fields.stored.hashes
            removed.tier = fields.stored.tier
            removed.group = fields.stored.group
            batch.events.append(.removed(removed))
        case .cleared: batch.events.append(.allCleared)
        }
    }

    /// The value of `type`, which engines put first.
    private static func eventType(
        ofMap reader: MessagePackReader, _ count: Int
    ) throws(ScanError) -> EventType? {
        var reader = reader
        for _ in 0..<count {
            if try reader.stringBytes().equals("type") {
                return EventType(try reader.stringBytes())
            }
            try reader.skip()
        }
        return nil
    }

    // MARK: - Fields

    private static func decode(
        _ field: Field?, _ reader: inout MessagePackReader, _ batch: inout KVEventBatch,
        _ fields: inout Fields
    ) throws(ScanError) {
        guard let field else { return try reader.skip() }
        if reader.skipNull() { return }
        switch field {
        case .blockHashes:
            fields.hasHashes = true
            // Digests count by their last 8 bytes: what vLLM sends as an integer by default.
            let first = batch.hashes.count
            try reader.words(into: &batch.hashes)
            fields.stored.hashes = first..<batch.hashes.count
        case .parent: fields.stored.parent = try hash(&reader)
        case .tokenIDs:
            let first = batch.tokens.count
            try reader.tokenIDs(into: &batch.tokens)
            fields.stored.tokens = first..<batch.tokens.count
        case .blockSize: fields.stored.blockSize = Int(clamping: try reader.unsigned())
        case .loraID: fields.stored.loraID = try integer(&reader)
        case .medium: fields.stored.tier = tier(ofMedium: try reader.stringBytes())
        case .loraName: fields.stored.loraName = try reader.string()
        case .extraKeys: fields.stored.extraKeys = try decodeExtraKeys(&reader, &batch)
        case .group: fields.stored.group = try integer(&reader)
        case .attention: fields.stored.attention = attention(named: try reader.stringBytes())
        case .window: fields.windowTokenCount = try integer(&reader)
        case .locality: fields.isRemote = try reader.stringBytes().equals("REMOTE")
        case .cacheSalt: fields.stored.cacheSalt = try reader.string()
        }
    }

    private static func attention(named name: UnsafeRawBufferPointer) -> AttentionKind {
        if name.equals("full_attention") || name.equals("mla_attention")
            || name.equals("sink_full_attention")
        {
            return .full
        }
        if name.equals("sliding_window") || name.equals("sliding_window_mla") {
            return .slidingWindow(tokenCount: nil)
        }
        return name.equals("mamba") ? .state : .other
    }

    /// Mediums of vLLM and SGLang; what is not known is taken for the slowest.
    private static func tier(ofMedium name: UnsafeRawBufferPointer) -> Tier {
        if name.equals("GPU") { return .gpu }
        if name.equals("CPU") || name.equals("CPU_PINNED") { return .cpu }
        if name.equals("STORAGE") || name.equals("DISK") || name.equals("FS") { return .disk }
        return .remote
    }

    /// A hash of either signedness, or the last 8 bytes, big-endian, of a digest: what vLLM sends
    /// as an integer by default.
    private static func hash(_ reader: inout MessagePackReader) throws(ScanError) -> UInt64 {
        let start = reader.offset
        switch try reader.next() {
        case .unsigned(let value): return value
        case .negative(let value): return UInt64(bitPattern: value)
        case .binary(let digest) where !digest.isEmpty:
            return digest.suffix(8).reduce(0) { $0 << 8 | UInt64($1) }
        default: throw ScanError(offset: start, reason: .kind)
        }
    }

    /// nil for nil.
    private static func integer(_ reader: inout MessagePackReader) throws(ScanError) -> Int? {
        let start = reader.offset
        switch try reader.next() {
        case .null: return nil
        case .unsigned(let value): return Int(clamping: value)
        case .negative(let value): return Int(value)
        default: throw ScanError(offset: start, reason: .kind)
        }
    }

    /// For each block nil or a list of names and of `[name, offset, …]`; other items, such as
    /// digests of prompt embeddings, are passed over.
    private static func decodeExtraKeys(
        _ reader: inout MessagePackReader, _ batch: inout KVEventBatch
    ) throws(ScanError) -> Range<Int> {
        let first = batch.extraKeys.count
        for block in 0..<(try reader.arrayCount()) where !reader.skipNull() {
            for _ in 0..<(try reader.arrayCount()) {
                var item = reader
                switch try item.next() {
                case .string:
                    let value = try reader.string()
                    batch.extraKeys.append(.init(block: block, value: value, offset: nil))
                case .array(let count):
                    if count > 0, let extra = try extraKey(ofTuple: item, count, block) {
                        batch.extraKeys.append(extra)
                    }
                    try reader.skip()
                default: try reader.skip()
                }
            }
        }
        return first..<batch.extraKeys.count
    }

    /// nil if the tuple does not begin with a name.
    private static func extraKey(
        ofTuple reader: MessagePackReader, _ count: Int, _ block: Int
    ) throws(ScanError) -> KVEventBatch.ExtraKey? {
        var reader = reader
        let beginning = reader
        guard case .string = try reader.next() else { return nil }
        var values = beginning
        let value = try values.string()
        guard count > 1, case let item = try values.next() else {
            return .init(block: block, value: value, offset: 0)
        }
        switch item {
        case .unsigned(let offset):
            return .init(block: block, value: value, offset: Int(clamping: offset))
        case .negative(let offset):
            return .init(block: block, value: value, offset: Int(offset))
        default: return .init(block: block, value: value, offset: 0)
        }
    }
}

extension UnsafeRawBufferPointer {
    fileprivate func equals(_ text: StaticString) -> Bool {
        guard count == text.utf8CodeUnitCount else { return false }
        for index in 0..<count where self[index] != text.utf8Start[index] { return false }
        return true
    }
}
