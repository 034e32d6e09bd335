import Core
import Foundation
import Indexer
import Net
import Scan
import Scheduling
import Testing

/// Requests broken in many ways: a value or a typed error, no crash.
@Suite struct HostileRequestTests {
    /// How long; `INDEXER_FUZZ_SECONDS` asks for more.
    private static let seconds =
        ProcessInfo.processInfo.environment["INDEXER_FUZZ_SECONDS"].flatMap(Double.init) ?? 1

    private static let bodies = [
        #"{"model":"m","token_ids":[1,2,3,4,5,6,7,8],"block_size":4,"cache_salt":"s"}"#,
        #"{"model":"\u00fc","token_ids":[],"block_size":4,"lora_name":null,"tenant_id":"default"}"#,
        """
        {"endpoint": "tcp://10.1.2.3:5557", "replay_endpoint": "tcp://[::1]:5558", "type": "vLLM",
         "modelname": "base", "instance_id": "i", "block_size": 4, "dp_rank": 3,
         "hash_profile": {"strategy": "vllm_v1", "algorithm": "sha256_cbor"}}
        """,
        #"{"instance_id": "i", "tenant_id": "default", "dp_rank": 0}"#,
    ]

    private func mutated(
        _ original: [UInt8], _ pieces: [[UInt8]], using random: inout RandomSource
    ) -> [UInt8] {
        var bytes = original
        for _ in 0..<Int.random(in: 1...6, using: &random) where !bytes.isEmpty {
            let place = Int.random(in: 0..<bytes.count, using: &random)
            switch Int.random(in: 0..<5, using: &random) {
            case 0: bytes[place] = UInt8.random(in: 0...255, using: &random)
            case 1: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: bytes.insert(contentsOf: pieces.randomElement(using: &random) ?? [], at: place)
            case 3: bytes.removeSubrange(place...)
            default:
                let end = Int.random(in: place..<bytes.count, using: &random)
                bytes.insert(contentsOf: bytes[place...end], at: place)
            }
        }
        return bytes
    }

    private func fuzz(_ name: String, _ body: (inout RandomSource, String) throws -> Bool) rethrows
    {
        let seed = UInt64.random(in: 0 ... .max)
        print("hostile \(name): seed \(seed)")
        var random = RandomSource(seed: seed)
        var (acceptedCount, refusedCount) = (0, 0)
        let end = ContinuousClock.now + .seconds(Self.seconds)
        while ContinuousClock.now < end {
            for _ in 0..<100 {
                if try body(&random, "seed \(seed)") {
                    acceptedCount += 1
                } else {
                    refusedCount += 1
                }
            }
        }
        #expect(acceptedCount > 0 && refusedCount > 0, "seed \(seed)")
    }

    @Test func brokenBodiesAreRefused() throws {
        let pieces = [
            "-1", "1e400", "4294967296", "\"", "\\ud800", "null", "{}", "[[", "],", "\"model\":",
            "\"block_size\":4,", ",\"token_ids\":[9]", "\u{0}", "💥",
        ].map { Array($0.utf8) }
        try fuzz("bodies") { random, note in
            let original = Array((Self.bodies.randomElement(using: &random) ?? "").utf8)
            let bytes = mutated(original, pieces, using: &random)
            guard let document = try? JSONDocument.parse(bytes) else { return false }
            var isAccepted = false
            let readers: [() throws -> Void] = [
                {
                    let query = try PrefixQuery(document, blockSize: 4)
                    #expect(!query.model.isEmpty && query.cacheSalt != "", "\(note)")
                    #expect(query.tokens.count <= bytes.count, "\(note)")
                },
                {
                    let registration = try EngineRegistration(document, blockSize: 4)
                    #expect(registration.events.port != 0, "\(note)")
                    #expect(!registration.instance.isEmpty, "\(note)")
                },
                { _ = try EngineUnregistration(document) },
            ]
            for read in readers {
                do {
                    try read()
                    isAccepted = true
                } catch let error as IndexerError {
                    _ = try JSONDocument.parse(error.body)
                }
            }
            return isAccepted
        }
    }

    @Test func brokenMessagesAreRefused() throws {
        let originals = [
            field(1, "Once upon a time") + field(2, "m") + field(3, "a") + field(3, "10.0.0.1:80"),
            field(2, "m") + [0x20, 0x96, 0x01] + field(1, "ünïcödé"),
        ]
        let pieces: [[UInt8]] = [
            [0x0A, 0x7F], [0x0B], [0x0C], [0x80], [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            [0x0A, 0x00], [0x09], [0x0D], [0xC0, 0x80],
        ]
        try fuzz("messages") { random, note in
            let bytes = mutated(
                originals.randomElement(using: &random) ?? [], pieces, using: &random)
            do {
                let request = try bytes.withUnsafeBytes { try PodScoresRequest(decoding: $0) }
                let held = request.pods.reduce(0) { $0 + $1.utf8.count }
                #expect(held + request.prompt.utf8.count <= bytes.count, "\(note)")
                return true
            } catch is ProtobufError {
                return false
            }
        }
    }
}
