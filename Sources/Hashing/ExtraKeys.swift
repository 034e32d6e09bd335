import CHashing

/// Something that vLLM's block hashes cover beside the tokens, in the tagged form of vLLM 0.33.
public enum BlockExtraKey: Hashable, Sendable {
    /// The LoRA adapter of the request; part of every block.
    case lora(name: String, path: String)
    /// A multimodal item that overlaps the block; `offset` is that of its first token from the
    /// block's, negative for an item that began before the block.
    case multimodal(identifier: String, offset: Int)
    /// The request's cache salt; part of the first block alone.
    case cacheSalt(String)
    /// SHA-256 of the prompt embeddings of the block.
    case promptEmbeds(digest: BlockHash)
}

/// The encoded extra keys of one block for ``BlockHasher``.
public struct BlockExtraKeys: Hashable, Sendable {
    let encoded: [UInt8]

    /// No extra keys, as most blocks have.
    public static let none = BlockExtraKeys(encoded: [])

    private init(encoded: [UInt8]) {
        self.encoded = encoded
    }

    /// Encodes keys, which vLLM orders: LoRA, multimodal items, cache salt, prompt embeddings.
    public init(_ keys: [BlockExtraKey]) {
        guard !keys.isEmpty else {
            self = .none
            return
        }
        encoded = encode { writer in
            ch_extra_keys_begin(&writer, keys.count)
            for key in keys {
                switch key {
                case .lora(let name, let path):
                    ch_extra_key_lora(&writer, name, name.utf8.count, path, path.utf8.count)
                case .multimodal(let identifier, let offset):
                    ch_extra_key_multimodal(
                        &writer, identifier, identifier.utf8.count, Int64(offset))
                case .cacheSalt(let salt):
                    ch_extra_key_cache_salt(&writer, salt, salt.utf8.count)
                case .promptEmbeds(let digest):
                    ch_extra_key_prompt_embeds(&writer, digest.bytes)
                }
            }
        }
    }

    /// Takes extra keys that are encoded already: one item of canonical CBOR, such as a form of
    /// another vLLM release than 0.33.
    public init(canonicalCBOR: [UInt8]) {
        encoded = canonicalCBOR
    }
}

/// The encoded extra keys of one block for the ``RequestKeyHasher`` that made them.
public struct RequestExtraKeys: Hashable, Sendable {
    let encoded: [UInt8]

    /// No extra keys, as most blocks have.
    public static let none = RequestExtraKeys(encoded: [])

    private init(encoded: [UInt8]) {
        self.encoded = encoded
    }

    init(_ keys: [String], for algorithm: RequestKeyAlgorithm) {
        guard !keys.isEmpty else {
            self = .none
            return
        }
        encoded = encode { writer in
            ch_request_extra_keys_begin(&writer, algorithm.cValue, keys.count)
            for key in keys {
                ch_request_extra_key(&writer, algorithm.cValue, key, key.utf8.count)
            }
        }
    }
}

/// Runs `write` twice: to learn the length, then to write.
private func encode(_ write: (inout ch_writer) -> Void) -> [UInt8] {
    var writer = ch_writer()
    write(&writer)
    let length = writer.length_bytes
    return Array(unsafeUninitializedCapacity: length) { buffer, count in
        writer = ch_writer(
            bytes: buffer.baseAddress, capacity_bytes: length, length_bytes: 0)
        write(&writer)
        count = length
    }
}

extension [UInt8] {
    /// Calls `body` with the encoding of extra keys as the C core wants it: nil for none.
    func withExtra<Result>(_ body: (UnsafePointer<UInt8>?, Int) -> Result) -> Result {
        withUnsafeBufferPointer { body($0.isEmpty ? nil : $0.baseAddress, $0.count) }
    }
}
