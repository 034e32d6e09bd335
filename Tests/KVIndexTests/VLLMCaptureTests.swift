import Core
import Foundation
import Hashing
import KVIndex
import Testing

/// What a real vLLM published for nine known requests, applied to an index.
@Suite struct VLLMCaptureTests {
    private struct Request: Decodable {
        let label: String
        let body: Body
        let prompt_token_ids: [UInt32]
        let out_token_ids: [UInt32]

        struct Body: Decodable {
            let model: String
            let cache_salt: String?
        }
    }

    private struct Line: Decodable {
        let payload_hex: String
    }

    private struct Replay: Decodable {
        let reply_frames_hex: [[String]]
    }

    /// The lines of the subscription, which missed the first two batches.
    private func liveBatches() throws -> [KVEventBatch] {
        let text = String(decoding: try fixture("kv_events.jsonl"), as: UTF8.self)
        return try text.split(separator: "\n").map {
            try decode(hexBytes(JSONDecoder().decode(Line.self, from: Data($0.utf8)).payload_hex))
        }
    }

    /// All batches, by the replay.
    private func replayedBatches() throws -> [KVEventBatch] {
        let replay = try JSONDecoder().decode(Replay.self, from: fixture("kv_replay.json"))
        return try replay.reply_frames_hex.dropLast().map { try decode(hexBytes($0[3])) }
    }

    private func requests() throws -> [Request] {
        try JSONDecoder().decode([Request].self, from: fixture("kv_requests.json"))
    }

    private func index(blockSize: Int) throws -> (KVIndex, EndpointHandle) {
        var configuration = KVIndex.Configuration()
        configuration.blockSize = blockSize
        let index = try KVIndex(configuration: configuration)
        return (index, try index.register("engine"))
    }

    private func keys(_ index: KVIndex, _ tokens: [UInt32], _ request: Request) -> [UInt64] {
        let hasher = index.hasher(model: request.body.model)
        return hasher.keys(of: tokens.span) { block in
            block == 0 ? hasher.extraKeys(request.body.cache_salt.map { [$0] } ?? []) : .none
        }
    }

    /// The engine's blocks hold 32 tokens; the index may cut them smaller, equal or larger.
    @Test(arguments: [8, 16, 32, 64])
    func everyRequestMatchesItsFullBlocks(blockSize: Int) throws {
        let (index, engine) = try index(blockSize: blockSize)
        for batch in try replayedBatches() { index.apply(batch, from: engine, model: "tiny-llama") }
        var matches = PrefixMatches()
        for request in try requests() {
            // The engine has no KV of the last token that it gave out.
            let tokens = request.prompt_token_ids + request.out_token_ids.dropLast()
            let keys = keys(index, tokens, request)
            index.match(keys.span, at: MonotonicTime(nanoseconds: 0), into: &matches)
            let cachedTokens = tokens.count / 32 * 32
            #expect(matches[engine].blockCount == cachedTokens / blockSize, "\(request.label)")
            #expect(matches[engine].blockCount(in: .gpu) == matches[engine].blockCount)
            #expect(Array(matches.endpoints) == [engine])
        }
        #expect(index.counters(of: engine)?.parkedCount == 0)
        #expect(index.counters(of: engine)?.storesSkippedCount == 0)
    }

    @Test func aRequestMatchesUnderItsOwnModelAndSaltOnly() throws {
        let (index, engine) = try index(blockSize: 32)
        for batch in try liveBatches() { index.apply(batch, from: engine, model: "tiny-llama") }
        let request = try #require(try requests().first { $0.body.model == "adapter-b" })
        var matches = PrefixMatches()
        let hasher = index.hasher(model: "adapter-b")
        for salt in [[], ["tenant-2"]] {
            let keys = hasher.keys(of: request.prompt_token_ids.span) { block in
                block == 0 ? hasher.extraKeys(salt) : .none
            }
            index.match(keys.span, at: MonotonicTime(nanoseconds: 0), into: &matches)
            #expect(matches[engine].blockCount == 0, "salt \(salt)")
        }
        #expect(
            index.match(request.prompt_token_ids, model: "adapter-c", on: engine).blockCount == 0)
        let known = keys(index, request.prompt_token_ids, request)
        index.match(known.span, at: MonotonicTime(nanoseconds: 0), into: &matches)
        #expect(matches[engine].blockCount == 2)
    }
}
