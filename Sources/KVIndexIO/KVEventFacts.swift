import Core
import KVIndex
import Scan

/// What an event says, to be compared: as the decoder understood it, and as a vector file has it.
struct EventFacts {
    var type: String
    var hashes: [UInt64] = []
    var parent: UInt64?
    var tokens: [UInt32] = []
    var blockSize = 0
    var loraID: Int?
    var loraName: String?
    var tier = Tier.gpu
    var group: Int?
    var attention = AttentionKind.full
    var cacheSalt: String?
    /// Block, value, offset.
    var extraKeys: [String] = []

    init(_ event: KVEvent, in batch: KVEventBatch) {
        switch event {
        case .stored(let stored):
            type = "BlockStored"
            hashes = Array(batch.hashes[stored.hashes])
            parent = stored.parent
            tokens = Array(batch.tokens[stored.tokens])
            blockSize = stored.blockSize
            loraID = stored.loraID
            loraName = stored.loraName
            tier = stored.tier
            group = stored.group
            attention = stored.attention
            cacheSalt = stored.cacheSalt
            extraKeys = batch.extraKeys[stored.extraKeys].map {
                Self.extraKey($0.block, $0.value, $0.offset)
            }
        case .removed(let removed):
            type = "BlockRemoved"
            hashes = Array(batch.hashes[removed.hashes])
            tier = removed.tier
            group = removed.group
        case .allCleared: type = "AllBlocksCleared"
        }
    }

    /// What the decoder understood otherwise; nil if nothing.
    func difference(from expected: EventFacts) -> String? {
        for ((name, ours), (_, expected)) in zip(described, expected.described)
        where ours != expected {
            return "\(name): \(ours), not \(expected)"
        }
        return nil
    }

    private var described: [(name: String, value: String)] {
        [
            ("type", type), ("block hashes", "\(hashes)"), ("parent", Self.text(parent)),
            ("tokens", "\(tokens)"), ("block size", "\(blockSize)"),
            ("LoRA id", Self.text(loraID)), ("LoRA name", Self.text(loraName)),
            ("tier", "\(tier)"), ("group", Self.text(group)), ("attention", "\(attention)"),
            ("cache salt", Self.text(cacheSalt)), ("extra keys", "\(extraKeys)"),
        ]
    }

    private static func text(_ value: (some CustomStringConvertible)?) -> String {
        value.map(\.description) ?? "nothing"
    }

    private static func extraKey(_ block: Int, _ value: String, _ offset: Int?) -> String {
        "\(block) \(value) \(offset.map { "\($0)" } ?? "-")"
    }

    // MARK: - Vector files

    /// The fields of positional encodings.
    private static let storedFields = [
        "type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id",
        "medium", "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind",
        "kv_cache_spec_sliding_window", "locality",
    ]
    private static let removedFields = ["type", "block_hashes", "medium", "group_idx", "locality"]

    /// Reads an event: an object, or an array of its fields in their order.
    init(expecting event: JSONValue) throws(VectorFileError) {
        var fields: [String: JSONValue] = [:]
        if event.kind == .array {
            let isStore = Array(event.elements).first?.string == "BlockStored"
            for (name, value) in zip(
                isStore ? Self.storedFields : Self.removedFields, event.elements)
            {
                fields[name] = value
            }
        } else {
            for (name, value) in event.members { fields[name] = value }
        }
        fields = fields.filter { !$0.value.isNull }
        guard let type = fields["type"]?.string else {
            throw VectorFileError("\(event.path) has no type")
        }
        self.type = type
        for hash in fields["block_hashes"].map({ Array($0.elements) }) ?? [] {
            hashes.append(try Self.hash(hash))
        }
        group = fields["group_idx"]?.int
        tier = Self.tier(fields["medium"]?.string, fields["locality"]?.string)
        guard type == "BlockStored" else { return }
        if let parent = fields["parent_block_hash"] { self.parent = try Self.hash(parent) }
        if let tokens = fields["token_ids"] {
            do {
                try tokens.tokenIDs(into: &self.tokens)
            } catch {
                throw VectorFileError("\(tokens.path): \(error)")
            }
        }
        blockSize = fields["block_size"]?.int ?? 0
        loraID = fields["lora_id"]?.int
        loraName = fields["lora_name"]?.string
        cacheSalt = fields["cache_salt"]?.string
        attention = Self.attention(
            fields["kv_cache_spec_kind"]?.string, fields["kv_cache_spec_sliding_window"]?.int)
        let lists = fields["extra_keys"].map { Array($0.elements) } ?? []
        for (block, list) in lists.enumerated() {
            for item in list.elements {
                if let value = item.string {
                    extraKeys.append(Self.extraKey(block, value, nil))
                    continue
                }
                let parts = Array(item.elements)
                guard let value = parts.first?.string else { continue }
                extraKeys.append(
                    Self.extraKey(block, value, parts.count > 1 ? parts[1].int ?? 0 : 0))
            }
        }
    }

    /// An integer of either sign as its bits, or of `{"hex": DIGEST}` the last 8 bytes.
    private static func hash(_ value: JSONValue) throws(VectorFileError) -> UInt64 {
        if let digest = value["hex"]?.string {
            return try [UInt8](hex: digest).suffix(8).reduce(0) { $0 << 8 | UInt64($1) }
        }
        let text = String(decoding: value.rawBytes, as: UTF8.self)
        guard let bits = UInt64(text) ?? Int64(text).map(UInt64.init(bitPattern:)) else {
            throw VectorFileError("\(value.path) is no hash")
        }
        return bits
    }

    private static func tier(_ medium: String?, _ locality: String?) -> Tier {
        if locality == "REMOTE" { return .remote }
        return switch medium {
        case nil, "GPU": .gpu
        case "CPU", "CPU_PINNED": .cpu
        case "STORAGE", "DISK", "FS": .disk
        default: .remote
        }
    }

    private static func attention(_ kind: String?, _ window: Int?) -> AttentionKind {
        switch kind {
        case nil, "full_attention", "mla_attention", "sink_full_attention": .full
        case "sliding_window", "sliding_window_mla": .slidingWindow(tokenCount: window)
        case "mamba": .state
        default: .other
        }
    }
}
