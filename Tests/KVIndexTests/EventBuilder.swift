import Core
import Foundation
import Hashing
import KVIndex

extension KVEventBatch {
    mutating func addStore(
        _ hashes: [UInt64], parent: UInt64?, tokens: [UInt32], blockSize: Int,
        tier: Tier = .gpu, loraName: String? = nil, loraID: Int? = nil,
        extraKeys: [ExtraKey] = [], group: Int? = nil, attention: AttentionKind = .full
    ) {
        var stored = BlocksStored()
        stored.hashes = self.hashes.count..<self.hashes.count + hashes.count
        stored.tokens = self.tokens.count..<self.tokens.count + tokens.count
        stored.extraKeys = self.extraKeys.count..<self.extraKeys.count + extraKeys.count
        self.hashes += hashes
        self.tokens += tokens
        self.extraKeys += extraKeys
        stored.parent = parent
        stored.blockSize = blockSize
        stored.tier = tier
        stored.loraName = loraName
        stored.loraID = loraID
        stored.group = group
        stored.attention = attention
        events.append(.stored(stored))
    }

    mutating func addRemoval(_ hashes: [UInt64], tier: Tier = .gpu, group: Int? = nil) {
        var removed = BlocksRemoved()
        removed.hashes = self.hashes.count..<self.hashes.count + hashes.count
        self.hashes += hashes
        removed.tier = tier
        removed.group = group
        events.append(.removed(removed))
    }

    mutating func addClear() { events.append(.allCleared) }
}

/// One event as a batch of its own.
func batch(_ build: (inout KVEventBatch) -> Void) -> KVEventBatch {
    var batch = KVEventBatch()
    build(&batch)
    return batch
}

extension KVIndex {
    /// The match of an endpoint for a prompt without extra keys.
    func match(
        _ tokens: [UInt32], model: String = "m", on endpoint: EndpointHandle,
        at now: MonotonicTime = MonotonicTime(nanoseconds: 0)
    ) -> PrefixMatch {
        var matches = PrefixMatches()
        match(hasher(model: model).keys(of: tokens.span).span, at: now, into: &matches)
        return matches[endpoint]
    }
}

/// SplitMix64 (public domain, Vigna): the same numbers for the same seed everywhere.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }
}

func fixture(_ name: String) throws -> Data {
    let folder = URL(filePath: #filePath).deletingLastPathComponent()
    return try Data(contentsOf: folder.appending(path: "Fixtures/\(name)"))
}

/// A file of the vectors that rooms share.
func vectors(_ name: String) throws -> Data {
    let folder = URL(filePath: #filePath).deletingLastPathComponent()
    return try Data(contentsOf: folder.appending(path: "../Vectors/\(name)"))
}

func hexBytes(_ text: String) -> [UInt8] {
    let digits = Array(text.utf8)
    return stride(from: 0, to: digits.count, by: 2).compactMap {
        UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16)
    }
}

func decode(_ payload: [UInt8]) throws(KVIndexError) -> KVEventBatch {
    var batch = KVEventBatch()
    let result = payload.withUnsafeBytes { bytes in
        Result { () throws(KVIndexError) in try KVEventDecoder.decode(bytes, into: &batch) }
    }
    try result.get()
    return batch
}

/// Any JSON value, with integers of 64 bits exact.
enum JSONValue: Decodable, Equatable {
    case null
    case bool(Bool)
    case unsigned(UInt64)
    case signed(Int64)
    case double(Double)
    case string(String)
    case array([JSONValue])
    case object([String: JSONValue])

    init(from decoder: any Decoder) throws {
        let value = try decoder.singleValueContainer()
        if value.decodeNil() {
            self = .null
        } else if let bool = try? value.decode(Bool.self) {
            self = .bool(bool)
        } else if let number = try? value.decode(UInt64.self) {
            self = .unsigned(number)
        } else if let number = try? value.decode(Int64.self) {
            self = .signed(number)
        } else if let number = try? value.decode(Double.self) {
            self = .double(number)
        } else if let text = try? value.decode(String.self) {
            self = .string(text)
        } else if let array = try? value.decode([JSONValue].self) {
            self = .array(array)
        } else {
            self = .object(try value.decode([String: JSONValue].self))
        }
    }

    subscript(key: String) -> JSONValue {
        if case .object(let members) = self { members[key] ?? .null } else { .null }
    }

    var array: [JSONValue] { if case .array(let array) = self { array } else { [] } }
    var string: String? { if case .string(let string) = self { string } else { nil } }

    var integer: Int? {
        switch self {
        case .unsigned(let value): Int(exactly: value)
        case .signed(let value): Int(value)
        default: nil
        }
    }

    /// A hash as the index keeps it; byte strings stand as `{"hex": …}` in the samples.
    var hash: UInt64? {
        switch self {
        case .unsigned(let value): value
        case .signed(let value): UInt64(bitPattern: value)
        case .object(let members):
            members["hex"]?.string.flatMap { UInt64($0.suffix(16), radix: 16) }
        default: nil
        }
    }
}
