import Core
import Foundation

/// A file of hash vectors: what of it is checked. A file has any of the sections.
struct HashVectors: Decodable {
    /// By seed, then algorithm.
    var none_hash: [String: [String: Digest]]?
    var cases: [BlockCase]?
    var llm_d_request_keys: Cases<RequestCase>?
    var sglang: Cases<PageCase>?
    var approximate_prefix: Cases<ApproximateCase>?
    /// Blocks from the events of a running engine, with its settings.
    var vectors: [CapturedBlock]?
    var algo: String?
    var PYTHONHASHSEED: String?

    struct Cases<Case: Decodable>: Decodable {
        var cases: [Case]
    }

    struct Digest: Decodable {
        var hash_hex: String
    }

    /// A request and the block hashes that vLLM releases give it.
    struct BlockCase: Decodable {
        struct Item: Decodable {
            var identifier: String
            var offset: Int
            var length: Int
        }

        var name: String
        var block_size: Int
        var tokens: [UInt32]
        var lora_name: String?
        var lora_path: String?
        var lora_int_id: Int?
        var mm: [Item]?
        var cache_salt: String?
        var prompt_embeds_bytes_hex: String?
        var prompt_embeds_bytes_per_token: Int?
        var lookahead: Int?
        /// By vLLM release, then `algorithm|seed=text`.
        var results: [String: [String: BlockResult]]
    }

    struct BlockResult: Decodable {
        struct Block: Decodable {
            var hash_hex: String
            var event_int_u64: UInt64
        }

        var none_hash_hex: String
        var blocks: [Block]
    }

    struct RequestCase: Decodable {
        struct Result: Decodable {
            struct Block: Decodable {
                var key_u64: UInt64
            }

            var model_init: UInt64
            var blocks: [Block]
        }

        var name: String
        var block_size: Int
        var tokens: [UInt32]
        var hash_seed: String
        var model_or_lora: String
        var mm_hashes_per_block: [[String]?]?
        var xxh64: Result
        var cborFNV: Result

        enum CodingKeys: String, CodingKey {
            case name, block_size, tokens, hash_seed, model_or_lora, mm_hashes_per_block, xxh64
            case cborFNV = "cbor-fnv"
        }
    }

    /// Page hashes of SGLang.
    struct PageCase: Decodable {
        struct Block: Decodable {
            var hash_hex: String
            var event_int_i64: Int64
        }

        var name: String
        var page_size: Int
        var tokens: [UInt32]
        var cache_salt: String?
        var blocks: [Block]
    }

    struct ApproximateCase: Decodable {
        var name: String
        var block_size: Int
        var tokens: [UInt32]
        var model: String
        var cache_salt: String
        var keys_u64: [UInt64]
    }

    struct CapturedBlock: Decodable {
        var label: String
        var block_index: Int
        var parent_sha256_hex: String
        var token_ids: [UInt32]
        /// Tagged: `["cache_salt", "tenant"]`, `["lora", "name", "path"]`.
        var extra_keys_hashed: [[String]]?
        var sha256_hex: String
        var event_block_hash_u64: UInt64
    }
}

extension HashVectors {
    /// Reads a file.
    init(json: Data) throws(VectorFileError) {
        do {
            self = try JSONDecoder().decode(Self.self, from: json)
        } catch let error as DecodingError {
            throw VectorFileError(error.place)
        } catch {
            throw VectorFileError("\(error)")
        }
    }
}

extension DecodingError {
    /// What is wrong and where, as a path of JSON.
    fileprivate var place: String {
        let context: Context
        switch self {
        case .typeMismatch(_, let found), .valueNotFound(_, let found), .dataCorrupted(let found):
            context = found
        case .keyNotFound(let key, let found):
            context = Context(
                codingPath: found.codingPath + [key], debugDescription: "is missing")
        @unknown default:
            return "\(self)"
        }
        let path = context.codingPath.map { key in
            key.intValue.map { "[\($0)]" } ?? ".\(key.stringValue)"
        }
        return "$\(path.joined()): \(context.debugDescription)"
    }
}

extension HashVectors.BlockCase {
    /// What the hashes cover beside the tokens.
    var extras: PromptExtras {
        get throws {
            var extras = PromptExtras()
            if let lora_name {
                extras.adapter = .init(
                    name: lora_name, path: lora_path ?? "", number: lora_int_id ?? 0)
            }
            extras.items = (mm ?? []).map {
                .init(identifier: $0.identifier, offset: $0.offset, length: $0.length)
            }
            extras.cacheSalt = cache_salt
            if let prompt_embeds_bytes_hex {
                extras.embeddings = .init(
                    bytes: try [UInt8](hex: prompt_embeds_bytes_hex),
                    bytesPerToken: prompt_embeds_bytes_per_token ?? 1)
            }
            return extras
        }
    }
}

extension HashVectors.CapturedBlock {
    /// The extra keys by their tags.
    var extraKeys: [BlockExtraKey] {
        get throws {
            try (extra_keys_hashed ?? []).map { key in
                switch (key.first, key.count) {
                case ("cache_salt", 2): .cacheSalt(key[1])
                case ("lora", 3): .lora(name: key[1], path: key[2])
                default: throw VectorFileError("no such extra key: \(key)")
                }
            }
        }
    }
}
