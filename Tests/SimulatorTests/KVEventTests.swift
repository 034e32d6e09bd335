import Foundation
import Simulator
import Testing

@Suite struct KVEventTests {
    /// Every batch that vLLM sent, encoded again from what it says.
    @Test func encodesAsVLLMDoes() throws {
        let lines = try String(decoding: fixture("kv_events.jsonl"), as: UTF8.self)
            .split(separator: "\n")
        var compared = 0
        for line in lines {
            let object = try #require(
                try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
            let payload = try #require(object["payload_hex"] as? String)
            let decoded = try #require(object["decoded"] as? [Any])
            let events = try #require(decoded[1] as? [[String: Any]])
            let time = Double(
                bitPattern: try #require(UInt64(payload.dropFirst(4).prefix(16), radix: 16)))
            let encoded = KVEvent.encode(
                try events.map(stored), time: time, blockSize: 32)
            #expect(encoded.map { String(format: "%02x", $0) }.joined() == payload)
            compared += 1
        }
        #expect(compared == 8)
    }

    private func stored(_ event: [String: Any]) throws -> KVEvent {
        let parent = (event["parent_block_hash"] as? NSNumber)?.uint64Value
        let adapter = (event["lora_name"] as? String).map {
            LoRAAdapter(
                id: event["lora_id"] as? Int ?? 0, module: LoRAModule(name: $0, path: "unsaid"))
        }
        let extra = (try #require(event["extra_keys"] as? [Any]).first as? [String] ?? [])
        var stored = KVEvent.Stored(
            parent: parent.map(hash), adapter: adapter,
            salt: extra.dropFirst(adapter == nil ? 0 : 1).first)
        stored.hashes = try #require(event["block_hashes"] as? [NSNumber])
            .map { hash($0.uint64Value) }
        stored.tokens = try #require(event["token_ids"] as? [NSNumber]).map(\.uint32Value)
        return .stored(stored)
    }

    @Test func removalAndClearing() {
        let bytes = KVEvent.encode([.removed(hash(3)), .cleared], time: 0, blockSize: 16)
        var expected: [UInt8] = [0x93, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0x92, 0x84]
        func string(_ text: String) {
            expected.append(0xa0 + UInt8(text.utf8.count))
            expected += Array(text.utf8)
        }
        string("type")
        string("BlockRemoved")
        string("block_hashes")
        expected += [0x91, 0x03]
        string("medium")
        string("GPU")
        string("group_idx")
        expected += [0x00, 0x81]
        string("type")
        string("AllBlocksCleared")
        expected.append(0)
        #expect(bytes == expected)
    }
}
