import Core
import Foundation
import KVIndex
import Scan
import Testing

private struct Samples: Decodable {
    struct Sample: Decodable {
        let hex: String
    }

    let samples: [Sample]
}

@Suite struct KVEventDecoderTests {
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
        let samples = try JSONDecoder().decode(
            Samples.self, from: vectors("kv_event_samples.json")
        ).samples.map { hexBytes($0.hex) }
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
