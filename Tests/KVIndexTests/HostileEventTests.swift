import Core
import Foundation
import KVIndex
import Testing

/// Payloads of real engines, broken in many ways: an error or a batch, no crash, no memory beyond
/// the payload's own measure, and other engines' blocks stay.
@Suite struct HostileEventTests {
    /// How long; `KVINDEX_FUZZ_SECONDS` asks for more.
    private static let seconds =
        ProcessInfo.processInfo.environment["KVINDEX_FUZZ_SECONDS"].flatMap(Double.init) ?? 1

    private struct Line: Decodable {
        let payload_hex: String
    }

    private func payloads() throws -> [[UInt8]] {
        let samples = try JSONDecoder().decode(
            JSONValue.self, from: vectors("kv_event_samples.json"))
        var found: [[UInt8]] = []
        func collect(_ value: JSONValue) {
            switch value {
            case .string(let text) where text.utf8.count > 16 && text.utf8.allSatisfy(isHexDigit):
                found.append(hexBytes(text))
            case .array(let items): items.forEach(collect)
            case .object(let members): members.values.forEach(collect)
            default: break
            }
        }
        collect(samples)
        let lines = String(decoding: try fixture("kv_events.jsonl"), as: UTF8.self)
        for line in lines.split(separator: "\n") {
            found.append(
                hexBytes(try JSONDecoder().decode(Line.self, from: Data(line.utf8)).payload_hex))
        }
        return found.sorted { $0.lexicographicallyPrecedes($1) }
    }

    private func isHexDigit(_ byte: UInt8) -> Bool {
        (48...57).contains(byte) || (97...102).contains(byte)
    }

    /// One to eight changes: bytes, first bytes of containers with huge counts, cuts, doublings.
    private func mutated(_ payload: [UInt8], using random: inout SeededGenerator) -> [UInt8] {
        var bytes = payload
        for _ in 0..<Int.random(in: 1...8, using: &random) where !bytes.isEmpty {
            let place = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<6, using: &random) {
            case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
            case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: bytes[place] = UInt8.random(in: 0xc0...0xdf, using: &random)
            case 3:
                bytes.insert(
                    contentsOf: [0xdd, 0xff, 0xff, 0xff, 0xff].shuffled(using: &random), at: place)
            case 4: bytes.removeSubrange(place...)
            default:
                let end = Int.random(in: place..<bytes.count, using: &random)
                bytes.insert(contentsOf: bytes[place...end], at: place)
            }
        }
        return bytes
    }

    @Test func brokenPayloadsDoNoHarm() throws {
        let payloads = try payloads()
        try #require(payloads.count > 50)
        let seed = UInt64.random(in: 0 ... .max)
        print("hostile events: seed \(seed)")
        var random = SeededGenerator(seed: seed)
        var configuration = KVIndex.Configuration()
        configuration.maximumBytes = 4 << 20
        configuration.maximumParkedBlockCount = 256
        let index = try KVIndex(configuration: configuration)
        let hostile = try index.register("hostile")
        let honest = try index.register("honest")
        let tokens: [UInt32] = Array(1...64)
        index.apply(
            batch { $0.addStore([1, 2, 3, 4], parent: nil, tokens: tokens, blockSize: 16) },
            from: honest, model: "m")

        var (acceptedCount, refusedCount) = (0, 0)
        let end = ContinuousClock.now + .seconds(Self.seconds)
        while ContinuousClock.now < end {
            for _ in 0..<100 {
                let original = payloads.randomElement(using: &random) ?? []
                let payload = mutated(original, using: &random)
                do {
                    let batch = try decode(payload)
                    acceptedCount += 1
                    #expect(batch.tokens.count <= payload.count, "seed \(seed)")
                    #expect(batch.hashes.count <= payload.count, "seed \(seed)")
                    index.apply(batch, from: hostile, model: "m")
                } catch {
                    refusedCount += 1
                }
            }
            _ = index.match(tokens, on: honest)
            #expect(index.statistics.byteCount <= configuration.maximumBytes, "seed \(seed)")
        }
        #expect(index.match(tokens, on: honest).blockCount == 4, "seed \(seed)")
        #expect(acceptedCount > 100 && refusedCount > 100)
        print("hostile events: \(acceptedCount) accepted, \(refusedCount) refused")
    }
}
