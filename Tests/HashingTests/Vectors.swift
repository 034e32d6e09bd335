import Foundation
import Hashing

/// The parts of `kv_hash_vectors.json` that concern us.
struct HashVectors: Decodable {
    struct Digest: Decodable {
        var hash_hex: String
    }

    struct BlockCase: Decodable {
        struct Result: Decodable {
            var none_hash_hex: String
            var blocks: [Block]
        }

        struct Block: Decodable {
            var extra_keys: [ExtraValue]?
            var hash_hex: String
            var event_int_u64: UInt64
        }

        var name: String
        var block_size: Int
        var tokens: [UInt32]
        /// By vLLM release, then `algorithm|seed=text`.
        var results: [String: [String: Result]]
    }

    struct RequestKeys: Decodable {
        struct Case: Decodable {
            var name: String
            var block_size: Int
            var tokens: [UInt32]
            var hash_seed: String
            var model_or_lora: String
            var mm_hashes_per_block: [[String]?]?
            var xxh64: Result
            var cborFNV: Result

            enum CodingKeys: String, CodingKey {
                case name, block_size, tokens, hash_seed, model_or_lora, mm_hashes_per_block
                case xxh64
                case cborFNV = "cbor-fnv"
            }
        }

        struct Result: Decodable {
            struct Block: Decodable {
                var key_u64: UInt64
            }

            var model_init: UInt64
            var blocks: [Block]
        }

        var cases: [Case]
    }

    /// By seed, then algorithm.
    var none_hash: [String: [String: Digest]]
    var cases: [BlockCase]
    var llm_d_request_keys: RequestKeys
}

/// `vllm_block_hashes.json`.
struct CapturedHashes: Decodable {
    struct Block: Decodable {
        var label: String
        var parent_sha256_hex: String
        var token_ids: [UInt32]
        var extra_keys_hashed: [ExtraValue]?
        var sha256_hex: String
        var event_block_hash_u64: UInt64
    }

    var block_size: Int
    var PYTHONHASHSEED: String
    var none_hash_hex: String
    var vectors: [Block]
}

func loadFixture<Fixture: Decodable>(_ name: String) throws -> Fixture {
    let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures")
    return try JSONDecoder().decode(
        Fixture.self, from: Data(contentsOf: folder.appending(path: name)))
}

/// A Python value among the extra keys, and its canonical CBOR: the model of our encoder.
enum ExtraValue: Decodable {
    case null
    case integer(Int)
    case text(String)
    case bytes([UInt8])
    case array([ExtraValue])

    init(from decoder: any Decoder) throws {
        let container = try decoder.singleValueContainer()
        if container.decodeNil() {
            self = .null
        } else if let integer = try? container.decode(Int.self) {
            self = .integer(integer)
        } else if let text = try? container.decode(String.self) {
            self = .text(text)
        } else if let array = try? container.decode([ExtraValue].self) {
            self = .array(array)
        } else {
            let object = try container.decode([String: String].self)
            self = .bytes(try hexBytes(object["bytes_hex"] ?? "?"))
        }
    }

    var canonicalCBOR: [UInt8] {
        func item(_ major: UInt8, _ value: Int, _ content: [UInt8] = []) -> [UInt8] {
            switch value {
            case ..<24: [major << 5 | UInt8(value)] + content
            case ..<256: [major << 5 | 24, UInt8(value)] + content
            default: [major << 5 | 25, UInt8(value >> 8), UInt8(value & 255)] + content
            }
        }
        switch self {
        case .null: return [0xf6]
        case .integer(let value): return value < 0 ? item(1, -1 - value) : item(0, value)
        case .text(let text): return item(3, text.utf8.count, Array(text.utf8))
        case .bytes(let bytes): return item(2, bytes.count, bytes)
        case .array(let values): return item(4, values.count, values.flatMap(\.canonicalCBOR))
        }
    }

    /// The key of this value, if it is one in the tagged form of vLLM 0.33.
    var blockExtraKey: BlockExtraKey? {
        guard case .array(let items) = self, case .text(let tag)? = items.first else { return nil }
        switch (tag, items.dropFirst().first, items.dropFirst(2).first) {
        case ("lora", .text(let name), .text(let path)):
            return .lora(name: name, path: path)
        case ("mm", .text(let identifier), .integer(let offset)):
            return .multimodal(identifier: identifier, offset: offset)
        case ("cache_salt", .text(let salt), nil):
            return .cacheSalt(salt)
        case ("prompt_embeds", .bytes(let digest), nil):
            return BlockHash(digest).map { .promptEmbeds(digest: $0) }
        default:
            return nil
        }
    }
}

struct NotHexadecimal: Error {
    var text: String
}

func hexBytes(_ text: String) throws -> [UInt8] {
    let digits = text.compactMap(\.hexDigitValue)
    guard digits.count == text.count, digits.count % 2 == 0 else {
        throw NotHexadecimal(text: text)
    }
    return stride(from: 0, to: digits.count, by: 2).map { UInt8(digits[$0] << 4 | digits[$0 + 1]) }
}
