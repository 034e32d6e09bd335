import CHashing

/// Something that a block's hash covers beside the tokens.
public enum BlockExtraKey: Hashable, Sendable {
    /// The LoRA adapter of the request; part of every block. Releases before 0.14 take its number,
    /// from 0.33 on its path counts too.
    case lora(name: String, path: String, number: Int = 0)
    /// A multimodal item that overlaps the block; `offset` is that of its first token from the
    /// block's, negative for an item that began before the block.
    case multimodal(identifier: String, offset: Int)
    /// The request's cache salt; part of the first block alone.
    case cacheSalt(String)
    /// The prompt embeddings of the block: from release 0.18 on their SHA-256, before that all
    /// bytes of the tensor.
    case promptEmbeds([UInt8])

    fileprivate var kind: ch_extra_kind {
        switch self {
        case .lora: CH_EXTRA_LORA
        case .multimodal: CH_EXTRA_MULTIMODAL
        case .cacheSalt: CH_EXTRA_CACHE_SALT
        case .promptEmbeds: CH_EXTRA_PROMPT_EMBEDS
        }
    }

    fileprivate var value: [UInt8] {
        switch self {
        case .lora(let name, _, _): Array(name.utf8)
        case .multimodal(let identifier, _): Array(identifier.utf8)
        case .cacheSalt(let salt): Array(salt.utf8)
        case .promptEmbeds(let bytes): bytes
        }
    }

    fileprivate var path: [UInt8] {
        if case .lora(_, let path, _) = self { Array(path.utf8) } else { [] }
    }

    fileprivate var number: Int64 {
        switch self {
        case .lora(_, _, let number), .multimodal(_, let number): Int64(number)
        case .cacheSalt, .promptEmbeds: 0
        }
    }
}

/// A vLLM release, of those between which the form of extra keys changed.
public enum VLLMRelease: String, CaseIterable, Hashable, Sendable {
    /// 0.9 to 0.11.0: LoRA by number.
    case v0_9 = "v0.9"
    /// 0.14: LoRA by name, prompt embeddings as tensor bytes.
    case v0_14 = "v0.14"
    /// 0.18: prompt embeddings as SHA-256.
    case v0_18 = "v0.18"
    /// 0.23 and 0.27: multimodal items with their offset.
    case v0_23 = "v0.23"
    /// 0.33: everything tagged with its kind.
    case v0_33 = "v0.33"

    var style: ch_extra_style {
        switch self {
        case .v0_9: CH_STYLE_0_9
        case .v0_14, .v0_18: CH_STYLE_0_14
        case .v0_23: CH_STYLE_0_23
        case .v0_33: CH_STYLE_0_33
        }
    }
}

/// The encoded extra keys of one block, for hashers of the algorithm that they were encoded for.
public struct BlockExtraKeys: Hashable, Sendable {
    private let encoded: [UInt8]

    /// No extra keys, as most blocks have.
    public static let none = BlockExtraKeys(canonicalCBOR: [])

    /// Encodes keys, in any order, for `sha256_cbor` and `xxhash_cbor` of vLLM 0.33.
    public init(_ keys: [BlockExtraKey]) {
        guard
            let encoded = try? BlockExtraKeys(
                keys, algorithm: CH_SHA256_CBOR, style: CH_STYLE_0_33, lookahead: [])
        else { preconditionFailure("there is a place for every kind") }
        self = encoded
    }

    /// Takes extra keys that are encoded already: one item of canonical CBOR.
    public init(canonicalCBOR: [UInt8]) {
        encoded = canonicalCBOR
    }

    init(
        _ keys: [BlockExtraKey], algorithm: ch_algorithm, style: ch_extra_style,
        lookahead: [UInt32]
    ) throws(HashingError) {
        guard !(keys.isEmpty && lookahead.isEmpty) else {
            self = .none
            return
        }
        // All bytes in one buffer, so that one pointer reaches them.
        var bytes: [UInt8] = []
        let places = keys.map { key in
            let value = bytes.count..<bytes.count + key.value.count
            bytes += key.value
            let path = bytes.count..<bytes.count + key.path.count
            bytes += key.path
            return (value: value, path: path)
        }
        var encoded = [UInt8](repeating: 0, count: 64 + 2 * bytes.count)
        var status = CH_OK
        var length = 0
        repeat {
            if length > encoded.count { encoded = Array(repeating: 0, count: length) }
            status = bytes.withUnsafeBytes { bytes in
                let keys = zip(keys, places).map { key, places in
                    ch_extra_key(
                        kind: key.kind, value: ch_bytes(bytes, places.value),
                        path: ch_bytes(bytes, places.path), number: key.number)
                }
                return lookahead.withUnsafeBufferPointer { lookahead in
                    ch_extra_keys_encode(
                        algorithm, style, keys, keys.count, lookahead.baseAddress, lookahead.count,
                        &encoded, encoded.count, &length)
                }
            }
            guard status == CH_OK else {
                throw .extraKeys(String(cString: ch_status_message(status)))
            }
        } while length > encoded.count
        encoded.removeLast(encoded.count - length)
        self.encoded = encoded
    }

    /// Calls `body` with the encoding as the C core wants it.
    func withExtra<Result>(_ body: (ch_bytes) -> Result) -> Result {
        guard !encoded.isEmpty else { return body(ch_bytes()) }
        return encoded.withUnsafeBytes { body(ch_bytes($0, 0..<$0.count)) }
    }
}

extension ch_bytes {
    fileprivate init(_ buffer: UnsafeRawBufferPointer, _ range: Range<Int>) {
        self.init(bytes: buffer.baseAddress.map { $0 + range.lowerBound }, count: range.count)
    }
}
