import Core
import Foundation
import KVIndex
import Scan
import Testing

private struct Sample: Decodable, CustomTestStringConvertible {
    let name: String
    let hex: String
    let decoded: JSONValue
    var testDescription: String { name }
}

private struct Samples: Decodable {
    let samples: [Sample]
    let captured_from_vllm_publisher_code: [String: Captured]

    struct Captured: Decodable {
        let live: [[String]]
    }

    static func load() throws -> Samples {
        try JSONDecoder().decode(Samples.self, from: vectors("kv_event_samples.json"))
    }
}

/// The samples' own fields in the order of the positional encoding.
private let storedFields = [
    "type", "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
    "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind", "kv_cache_spec_sliding_window",
]
private let removedFields = ["type", "block_hashes", "medium", "group_idx"]

private func named(_ event: JSONValue) -> JSONValue {
    guard case .array(let values) = event else { return event }
    let names = values.first?.string == "BlockStored" ? storedFields : removedFields
    return .object(Dictionary(uniqueKeysWithValues: zip(names, values)))
}

private let tiers: [String: Tier] = [
    "GPU": .gpu, "CPU": .cpu, "CPU_PINNED": .cpu, "STORAGE": .disk, "DISK": .disk,
]

@Suite struct KVEventDecoderTests {
    @Test(arguments: try Samples.load().samples)
    private func sampleDecodes(_ sample: Sample) throws {
        let batch = try decode(hexBytes(sample.hex))
        let expected = sample.decoded.array
        #expect(JSONValue.double(batch.timestamp) == expected[0])
        #expect(batch.dataParallelRank == expected[2].integer)
        #expect(batch.unknownEventCount == 0)
        try #require(batch.events.count == expected[1].array.count)
        for (event, expected) in zip(batch.events, expected[1].array.map(named)) {
            switch event {
            case .stored(let stored):
                #expect(expected["type"].string == "BlockStored")
                check(stored, in: batch, against: expected)
            case .removed(let removed):
                #expect(expected["type"].string == "BlockRemoved")
                #expect(
                    batch.hashes[removed.hashes]
                        == expected["block_hashes"].array.compactMap(\.hash)[...])
                #expect(removed.group == expected["group_idx"].integer)
                #expect(removed.tier == tier(of: expected))
            case .allCleared:
                #expect(expected["type"].string == "AllBlocksCleared")
            }
        }
    }

    private func tier(of event: JSONValue) -> Tier? {
        event["locality"].string == "REMOTE"
            ? .remote : event["medium"].string.map { tiers[$0] } ?? .gpu
    }

    private func check(
        _ stored: BlocksStored, in batch: KVEventBatch, against expected: JSONValue
    ) {
        #expect(
            batch.hashes[stored.hashes] == expected["block_hashes"].array.compactMap(\.hash)[...])
        #expect(stored.parent == expected["parent_block_hash"].hash)
        #expect(
            batch.tokens[stored.tokens].map(Int.init) == expected["token_ids"].array.map(\.integer))
        #expect(stored.blockSize == expected["block_size"].integer)
        #expect(stored.loraID == expected["lora_id"].integer)
        #expect(stored.loraName == expected["lora_name"].string)
        #expect(stored.tier == tier(of: expected))
        #expect(stored.group == expected["group_idx"].integer)
        #expect(stored.cacheSalt == expected["cache_salt"].string)
        #expect(stored.attention == .full)
        var extras: [KVEventBatch.ExtraKey] = []
        for (block, list) in expected["extra_keys"].array.enumerated() {
            for item in list.array {
                if let value = item.string {
                    extras.append(.init(block: block, value: value, offset: nil))
                } else if let value = item.array.first?.string {
                    extras.append(
                        .init(block: block, value: value, offset: item.array[1].integer))
                }
            }
        }
        #expect(Array(batch.extraKeys[stored.extraKeys]) == extras)
    }

    @Test func framesOfVLLMsPublisherDecode() throws {
        for (version, captured) in try Samples.load().captured_from_vllm_publisher_code {
            for (index, frames) in captured.live.enumerated() {
                let batch = try decode(hexBytes(frames[2]))
                try #require(batch.events.count == 2, "vLLM \(version)")
                guard case .stored(let stored) = batch.events[0] else {
                    Issue.record("vLLM \(version): no store first")
                    continue
                }
                #expect(batch.hashes[stored.hashes] == [UInt64(11 + index)])
                #expect(batch.tokens[stored.tokens] == [1, 2])
                #expect(batch.events[1] == .allCleared)
            }
        }
    }

    @Test func unknownEventsAndFieldsArePassedOver() throws {
        var writer = MessagePackWriter()
        writer.array(count: 5)
        writer.double(1.5)
        writer.array(count: 3)
        writer.map(count: 2)
        writer.string("type")
        writer.string("BlockTouched")
        writer.string("token_ids")
        writer.string("not even tokens")
        writer.array(count: 3)
        writer.string("Novelty")
        writer.null()
        writer.map(count: 0)
        writer.map(count: 4)
        writer.string("future")
        writer.array(count: 1)
        writer.bool(true)
        writer.string("block_hashes")
        writer.array(count: 1)
        writer.int(-2)
        writer.string("type")
        writer.string("BlockRemoved")
        writer.string("medium")
        writer.string("HOLOGRAM")
        writer.int(7)
        writer.null()
        writer.string("more")
        let batch = try decode(writer.bytes)
        #expect(batch.unknownEventCount == 2)
        #expect(batch.dataParallelRank == 7)
        var removed = BlocksRemoved()
        removed.hashes = 0..<1
        removed.tier = .remote
        #expect(batch.events == [.removed(removed)])
        #expect(batch.hashes == [UInt64.max - 1])
    }

    @Test func otherAttentionIsTold() throws {
        var writer = MessagePackWriter()
        writer.array(count: 2)
        writer.int(0)
        writer.array(count: 1)
        writer.map(count: 3)
        writer.string("type")
        writer.string("BlockStored")
        writer.string("block_hashes")
        writer.array(count: 0)
        writer.string("kv_cache_spec_kind")
        writer.string("sliding_window")
        guard case .stored(let stored) = try decode(writer.bytes).events.first else {
            Issue.record("no store")
            return
        }
        #expect(stored.attention == .slidingWindow(tokenCount: nil))
    }

    @Test(
        arguments: [
            ("", "truncated"), ("c0", "nil"), ("91cb3ff0000000000000", "too short"),
            ("9300 9194 c1", "0xc1"),
            ("920091 92 ab426c6f636b53746f726564 a161", "hashes a string"),
            ("920091 91 ac426c6f636b52656d6f766564", "removal without hashes"),
            ("92 00 dd ffffffff", "a header that promises too much"),
            ("92 00 90 00", "trailing byte"),
            ("920091 94 ab426c6f636b53746f726564 9101 c0 91ff", "negative token"),
            ("920091 92 ac426c6f636b52656d6f766564 91c400", "empty digest"),
        ] as [(String, String)])
    func malformedPayloadIsATypedError(_ hex: String, _ what: String) {
        let payload = hexBytes(hex.filter { $0 != " " })
        #expect { try decode(payload) } throws: { error in
            guard case KVIndexError.malformedEvents(let offset, _) = error else { return false }
            return offset <= payload.count
        }
    }

    @Test(
        arguments: [
            ("92ff90", nil), ("93ff90c0", nil), ("93ff9003", 3), ("94ff90cd010505", 261),
            ("93ff9191a178cc05", 5), ("93ff90ff", -1),
        ] as [(String, Int?)])
    func rankIsReadWithoutTheEvents(_ hex: String, _ rank: Int?) throws {
        #expect(try hexBytes(hex).withUnsafeBytes(KVEventDecoder.rank) == rank)
    }

    @Test(arguments: ["", "05", "93ff", "93ff90", "93ff90a130", "93ff9205c1", "93c190c0"])
    func rankThatCannotBeToldIsATypedError(_ hex: String) {
        #expect(throws: KVIndexError.self) {
            try hexBytes(hex).withUnsafeBytes(KVEventDecoder.rank)
        }
    }

    /// Mutated samples and noise must decode or throw, and what decodes must point into the batch.
    @Test(arguments: [1, 2, 3] as [UInt64])
    func noiseNeverBreaksTheDecoder(seed: UInt64) throws {
        var random = SeededGenerator(seed: seed)
        let samples = try Samples.load().samples.map { hexBytes($0.hex) }
        var decodedCount = 0
        for _ in 0..<20_000 {
            var payload = samples.randomElement(using: &random) ?? []
            for _ in 0..<Int.random(in: 0...3, using: &random) where !payload.isEmpty {
                let place = Int.random(in: 0..<payload.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: payload[place] = UInt8.random(in: 0...255, using: &random)
                case 1: payload.removeSubrange(place...)
                default: payload.insert(UInt8.random(in: 0...255, using: &random), at: place)
                }
            }
            guard let batch = try? decode(payload) else { continue }
            decodedCount += 1
            #expect(try payload.withUnsafeBytes(KVEventDecoder.rank) == batch.dataParallelRank)
            for case .stored(let stored) in batch.events {
                #expect(batch.hashes.indices.contains(stored.hashes))
                #expect(batch.tokens.indices.contains(stored.tokens))
                #expect(batch.extraKeys.indices.contains(stored.extraKeys))
            }
        }
        #expect(decodedCount > 1000, "seed \(seed)")
    }
}

extension Range<Int> {
    fileprivate func contains(_ other: Range<Int>) -> Bool {
        other.isEmpty || (lowerBound <= other.lowerBound && other.upperBound <= upperBound)
    }
}
