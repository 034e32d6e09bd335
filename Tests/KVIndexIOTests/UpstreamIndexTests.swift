import Core
import Foundation
import Hashing
import KVIndex
import KVIndexIO
import LoopbackSupport
import Testing

/// The index in llm-d's layout, with a real Redis; other routers are plain commands.
@Suite(.timeLimit(.minutes(2))) struct UpstreamIndexTests {
    private let prompt: [UInt32] = Array(1...16)

    private struct Vectors: Decodable {
        struct Case: Decodable {
            struct Keys: Decodable {
                struct Block: Decodable {
                    let redis_key: String
                }
                let blocks: [Block]
            }
            let name: String
            let hash_seed: String
            let model_or_lora: String
            let block_size: Int
            let tokens: [UInt32]
            let cbor: Keys

            enum CodingKeys: String, CodingKey {
                case name, hash_seed, model_or_lora, block_size, tokens
                case cbor = "cbor-fnv"
            }
        }
        struct Section: Decodable {
            let cases: [Case]
        }
        let llm_d_request_keys: Section
    }

    private func vectors(_ name: String) throws -> Vectors.Case {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let data = try Data(contentsOf: tests.appending(path: "Vectors/kv_hash_vectors.json"))
        let cases = try JSONDecoder().decode(Vectors.self, from: data).llm_d_request_keys.cases
        return try #require(cases.first { $0.name == name })
    }

    // MARK: - Writing

    @Test func redisHoldsWhatLLMDWouldWrite() async throws {
        let vector = try vectors("l02")
        var keys = KVIndex.Configuration()
        keys.blockSize = vector.block_size
        keys.algorithm = .cborFNV
        keys.hashSeed = vector.hash_seed
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis, keys: keys)
        let control = try await RedisControl(redis)
        let tokens = Array(vector.tokens.prefix(48))
        let hashes: [UInt64] = [1, .max, 1 << 63]
        try await router.apply(model: vector.model_or_lora) {
            $0.store(hashes, tokens: tokens, group: 0)
            $0.store([1], tokens: [], tier: .cpu)
            $0.store([.max], tokens: [], tier: .disk)
            $0.store([.max], tokens: [], tier: .remote)
        }
        let blocks = vector.cbor.blocks.map(\.redis_key)
        #expect(blocks.count == 3)
        try await eventually {
            try await control.texts("KEYS", "*")
                == (blocks + hashes.map { "engine:\($0)" }).sorted()
        }
        try await eventually { router.metric("waiting_changes") == 0 }
        #expect(
            try await control.texts("HGETALL", blocks[0])
                == [goField(1, "gpu", group: 0), goField(1, "cpu"), "", ""].sorted())
        #expect(
            try await control.texts("HGETALL", blocks[1])
                == [goField(1, group: 0), goField(1, "storage"), goField(1, "remote"), "", "", ""]
                .sorted())
        #expect(
            try await control.texts("HGETALL", blocks[2]) == [goField(1, group: 0), ""].sorted())
        for (hash, block) in zip(hashes, blocks) {
            #expect(
                try await control.texts("ZRANGE", "engine:\(hash)", "0", "-1", "WITHSCORES")
                    == [block, "0"].sorted())
        }
        try await control.finish()
        try await router.finish()
    }

    @Test func whatIsRemovedIsGoneUnlessSomebodyElseHoldsIt() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        try await router.apply { [prompt] in
            $0.store([1, 2, 3, 4], tokens: prompt)
            $0.store([1], tokens: Array(prompt[..<4]))
            $0.store([2], tokens: [], tier: .cpu)
        }
        try await eventually { try await control.send("EXISTS", keys[3]) == 1 }
        _ = try await control.send("HSET", keys[2], goField(9), "")
        // An engine key of more blocks than one, as an engine with larger blocks has it.
        _ = try await control.send("ZADD", "engine:4", "1", keys[2])
        try await router.apply { $0.remove([1, 2, 3, 4]) }
        try await eventually { try await control.send("EXISTS", keys[3]) == 0 }
        #expect(
            try await control.texts("KEYS", "*")
                == [keys[0], keys[1], keys[2], "engine:1", "engine:2", "engine:3", "engine:4"]
                .sorted())
        #expect(try await control.texts("HKEYS", keys[0]) == [goField(1)])
        #expect(try await control.texts("HKEYS", keys[1]) == [goField(1, "cpu")])
        #expect(try await control.texts("HKEYS", keys[2]) == [goField(9)])
        try await router.apply {
            $0.remove([1])
            $0.remove([2], tier: .cpu)
        }
        try await eventually {
            try await control.texts("KEYS", "*") == [keys[2], "engine:3", "engine:4"].sorted()
        }
        try await control.finish()
        try await router.finish()
    }

    @Test func anEngineThatRestartsLeavesNothing() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        try await router.apply { batch in
            for number in 0..<2000 as Range<UInt32> {
                batch.store([UInt64(number) + 1], tokens: [number, 1, 2, 3])
            }
        }
        try await eventually { try await control.send("DBSIZE") == 4000 }
        try await router.apply { [prompt] in
            $0.clear()
            $0.store([7], tokens: Array(prompt[..<4]))
        }
        try await eventually { try await control.send("DBSIZE") == 2 }
        #expect(
            try await control.texts("KEYS", "*")
                == ["\(router.keys(of: prompt)[0])", "engine:7"].sorted())
        try await control.finish()
        try await router.finish()
    }

    @Test func keysOfOthersAreLeftAlone() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        _ = try await control.send("SET", keys[0], "mine")
        _ = try await control.send("SET", "engine:2", "mine")
        try await router.apply { [prompt] in $0.store([1, 2, 3, 4], tokens: prompt) }
        try await eventually { try await control.send("EXISTS", keys[3]) == 1 }
        try await router.apply { $0.remove([1, 2, 3, 4]) }
        try await eventually { try await control.send("EXISTS", keys[3]) == 0 }
        try await eventually {
            try await control.texts("KEYS", "*") == [keys[0], "engine:1", "engine:2"].sorted()
        }
        #expect(router.metric("malformed_entries_total") ?? 0 >= 2)
        #expect(router.metric("refused_batches_total") == 0)
        try await control.finish()
        try await router.finish()
    }

    // MARK: - Reading

    @Test func aRouterWithoutEventsFindsAtTheSecondLookupWhatAnotherWrote() async throws {
        let redis = try RedisServer()
        let first = try await UpstreamRouter(redis, pool: [pod(1), pod(2)])
        let second = try await UpstreamRouter(redis, pool: [pod(1), pod(2)])
        try await first.apply { [prompt] in $0.store([1, 2, 3], tokens: Array(prompt[..<12])) }
        try await first.apply(at: "pod2") { [prompt] in
            $0.store([1], tokens: Array(prompt[..<4]), tier: .cpu)
        }
        try await eventually { first.metric("waiting_changes") == 0 }
        // The first lookup does not wait for Redis.
        #expect(second.matched(prompt) == 0)
        try await eventually { second.matched(prompt) == 3 }
        #expect(second.match(prompt, on: "pod2")?.blockCount(in: .cpu) == 1)
        try await first.apply { $0.remove([3]) }
        try await eventually { second.matched(prompt) == 2 }
        try await first.apply { $0.clear() }
        try await eventually { second.matched(prompt) == 0 }
        #expect(second.matched(prompt, on: "pod2") == 1)
        try await eventually { second.metric("imported_blocks") == 1 }
        try await first.finish()
        try await second.finish()
    }

    @Test func whatLLMDWroteIsFound() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis, pool: [pod(1), pod(2)])
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        for key in keys { _ = try await control.send("HSET", key, goField(1, group: 0), "") }
        _ = try await control.send("HSET", keys[0], goField(2, "cpu"), "")
        _ = try await control.send("HSET", keys[1], goField(2, speculative: true), "")
        // Later releases know more of an entry.
        _ = try await control.send(
            "HSET", keys[1],
            #"{"PodIdentifier":"10.0.0.2:8000","DeviceTier":"storage","Speculative":false,"#
                + #""HasGroup":false,"GroupIdx":0,"retrievalSpan":4}"#, "")
        #expect(router.matched(prompt) == 0)
        try await eventually { router.matched(prompt) == 4 }
        let other = try #require(router.match(prompt, on: "pod2"))
        #expect(other.blockCount(in: .cpu) == 1)
        #expect(other.blockCount(in: .disk) == 1)
        #expect(other.blockCount == 2)
        for key in keys[1...] { _ = try await control.send("DEL", key) }
        try await eventually { router.matched(prompt) == 1 }
        try await control.finish()
        try await router.finish()
    }

    @Test func aLongPromptIsAskedForInParts() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis) { $0.refreshInterval = .seconds(600) }
        let control = try await RedisControl(redis)
        let long: [UInt32] = Array(0..<16_000)
        let keys = router.keys(of: long)
        for key in keys[..<1000] { _ = try await control.send("HSET", "\(key)", goField(1), "") }
        try await eventually { router.matched(long) == 1000 }
        // Redis' word ends within the fourth part, and is not asked for again so soon.
        try await eventually { router.metric("lookup_blocks_total") == 1024 }
        for _ in 0..<100 { _ = router.matched(long) }
        try await eventually { router.matched(Array(long[..<4000])) == 1000 }
        #expect(router.metric("lookup_blocks_total") == 1024)
        try await control.finish()
        try await router.finish()
    }

    @Test func hostileFieldsAreIgnoredAndCounted() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis) { $0.refreshInterval = .seconds(600) }
        let control = try await RedisControl(redis)
        let key = "\(router.keys(of: prompt)[0])"
        let hostile = [
            "", "{", "null", "[]", "10.0.0.1:8000@gpu", #"{"PodIdentifier":7}"#,
            #"{"PodIdentifier":""}"#, #"{"PodIdentifier":"10.0.0.1:8000","DeviceTier":1}"#,
            #"{"PodIdentifier":"10.0.0.1:8000","DeviceTier":"gpu","Speculative":"no"}"#,
            #"{"PodIdentifier":"10.0.0.1:8000","HasGroup":true,"GroupIdx":"0"}"#,
            String(repeating: "[", count: 10_000), "\u{0}\u{1}",
        ]
        for field in hostile { _ = try await control.send("HSET", key, field, "") }
        // Of another pool.
        _ = try await control.send("HSET", key, goField(77), "")
        _ = try await control.send("HSET", key, goField(1, "floppy"), "")
        _ = try await control.send("SET", "\(router.keys(of: prompt)[1])", "x")
        _ = router.matched(prompt)
        try await eventually {
            router.metric("malformed_entries_total") == Double(hostile.count + 1)
        }
        try await eventually { router.match(prompt)?.blockCount(in: .remote) == 1 }
        #expect(router.matched(prompt) == 1)
        try await control.finish()
        try await router.finish()
    }

    @Test func whatDoesNotFitIsGivenBack() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis) {
            $0.maximumImportedBlocks = 8
            $0.refreshInterval = .seconds(600)
        }
        let control = try await RedisControl(redis)
        let prompts = (0..<10 as Range<UInt32>).map { number in
            (0..<16 as Range<UInt32>).map { $0 + 100 * number }
        }
        for prompt in prompts {
            for key in router.keys(of: prompt) {
                _ = try await control.send("HSET", "\(key)", goField(1), "")
            }
        }
        for prompt in prompts { try await eventually { router.matched(prompt) == 4 } }
        try await eventually { router.metric("imported_blocks") == 8 }
        #expect(router.index.statistics.blockCount == 8)
        try await control.finish()
        try await router.finish()
    }

    // MARK: - Events and Redis' word together

    @Test func eventsTakeThePlaceOfWhatRedisTold() async throws {
        let redis = try RedisServer()
        let control = try await RedisControl(redis)
        let old = try await UpstreamRouter(redis)
        try await old.apply { [prompt] in $0.store([1, 2, 3, 4], tokens: prompt) }
        try await eventually { old.metric("waiting_changes") == 0 }
        try await old.finish()
        // The router restarts: Redis alone knows.
        let router = try await UpstreamRouter(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        try await eventually { router.matched(prompt) == 4 }
        // The engine tells two of them again; one removal takes each away.
        try await router.apply { [prompt] in $0.store([1, 2], tokens: Array(prompt[..<8])) }
        #expect(router.matched(prompt) == 4)
        try await eventually { router.metric("imported_blocks") == 2 }
        try await router.apply { $0.remove([2]) }
        #expect(router.matched(prompt) == 1)
        try await eventually { try await control.send("EXISTS", keys[1]) == 0 }
        // And one of those that were stored before the router knew of them.
        try await router.apply { $0.remove([4]) }
        try await eventually { try await control.send("EXISTS", keys[3]) == 0 }
        #expect(try await control.send("EXISTS", "engine:4") == 0)
        try await eventually { router.metric("imported_blocks") == 1 }
        try await router.apply { [prompt] in $0.store([2], parent: 1, tokens: Array(prompt[4..<8]))
        }
        try await eventually { router.matched(prompt) == 3 }
        // The engine restarts: what others still say of it is old.
        try await router.apply { $0.clear() }
        #expect(router.matched(prompt) == 0)
        // Of a block of which no event told its engine key is not known.
        try await eventually { try await control.texts("KEYS", "*") == ["engine:3"] }
        _ = try await control.send("HSET", keys[0], goField(1), "")
        let asked = router.metric("lookup_blocks_total") ?? 0
        try await eventually {
            _ = router.matched(prompt)
            return router.metric("lookup_blocks_total") ?? 0 > asked + 10
        }
        #expect(router.matched(prompt) == 0)
        try await control.finish()
        try await router.finish()
    }

    @Test func whatTheIndexForgotIsTakenOverAgain() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt)
        for key in keys { _ = try await control.send("HSET", "\(key)", goField(1), "") }
        try await eventually { router.matched(prompt) == 4 }
        // As when memory runs short: nobody tells who shares the index.
        router.index.clear(try #require(router.index.endpoint(named: "pod1")))
        try await eventually { router.matched(prompt) == 4 }
        for key in keys { _ = try await control.send("DEL", "\(key)") }
        try await eventually { router.matched(prompt) == 0 }
        try await control.finish()
        try await router.finish()
    }

    @Test func aPodThatLeavesIsForgottenHereAndStaysInRedis() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis, pool: [pod(1), pod(2)])
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        try await router.apply { [prompt] in $0.store([1, 2], tokens: Array(prompt[..<8])) }
        for key in keys { _ = try await control.send("HSET", key, goField(2), "") }
        try await eventually { router.matched(prompt, on: "pod2") == 4 }
        try await eventually { router.metric("waiting_changes") == 0 }
        try await router.update([], leaving: ["pod1", "pod2"])
        #expect(router.index.statistics.blockCount == 0)
        #expect(try await control.send("HLEN", keys[0]) == 2)
        try await eventually { router.metric("imported_blocks") == 0 }
        // Back again, it has what Redis says, and of another address nothing.
        try await router.update([pod(2)])
        try await eventually { router.matched(prompt, on: "pod2") == 4 }
        var moved = pod(2)
        moved.address.port = 9000
        try await router.update([moved], leaving: ["pod2"])
        let asked = router.metric("lookup_blocks_total") ?? 0
        try await eventually {
            _ = router.matched(prompt)
            return router.metric("lookup_blocks_total") ?? 0 > asked + 10
        }
        #expect(router.matched(prompt, on: "pod2") == 0)
        try await control.finish()
        try await router.finish()
    }

    // MARK: - A server that fails

    @Test func aServerThatComesBackEmptyIsFilledAgain() async throws {
        let redis = try RedisServer()
        let first = try await UpstreamRouter(redis)
        let second = try await UpstreamRouter(redis) { $0.settlingTime = .seconds(600) }
        try await first.apply { batch in
            batch.store(Array(1...3000), tokens: Array(0..<12_000))
        }
        let long: [UInt32] = Array(0..<12_000)
        try await eventually { second.matched(long) == 3000 }
        redis.kill()
        #expect(first.matched(long) == 3000)
        #expect(second.matched(long) == 3000)
        try await first.apply { $0.remove([2900]) }
        try redis.start()
        let control = try await RedisControl(redis)
        try await eventually {
            // Who follows keeps what it knows while the server is filled.
            #expect(second.matched(long) == 3000)
            return try await control.send("DBSIZE") == 2 * 2999
        }
        let third = try await UpstreamRouter(redis)
        try await eventually { third.matched(long) == 2899 }
        try await control.finish()
        try await first.finish()
        try await second.finish()
        try await third.finish()
    }

    @Test func aNewConnectionIsReasonEnoughToWriteAllAgain() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        try await router.apply { [prompt] in $0.store([1, 2, 3, 4], tokens: prompt) }
        try await eventually { router.metric("convergence_age_seconds") == 0 }
        redis.kill()
        try await router.apply { $0.remove([4]) }
        try redis.start()
        let control = try await RedisControl(redis)
        try await eventually { try await control.send("DBSIZE") == 6 }
        try await control.finish()
        try await router.finish()
    }

    @Test func blocksThatSomebodyDeletedAreWrittenAgainWhenTheyAreAskedFor() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        try await router.apply { [prompt] in $0.store([1, 2, 3, 4], tokens: prompt) }
        try await eventually { try await control.send("DBSIZE") == 8 }
        try await eventually { router.metric("convergence_age_seconds") == 0 }
        _ = try await control.send("FLUSHALL")
        #expect(router.matched(prompt) == 4)
        try await eventually {
            _ = router.matched(prompt)
            return try await control.send("DBSIZE") == 8
        }
        try await control.finish()
        try await router.finish()
    }

    @Test func aServerThatHangsIsCaughtUpWith() async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        try await router.apply { [prompt] in $0.store([1, 2, 3, 4], tokens: prompt) }
        try await eventually { try await control.send("DBSIZE") == 8 }
        redis.suspend()
        for _ in 0..<1000 { #expect(router.matched(prompt) == 4) }
        try await router.apply { $0.remove([3, 4]) }
        try await router.apply { $0.store([9], tokens: [9, 9, 9, 9]) }
        try await eventually { router.metric("connected") == 0 }
        #expect(router.metric("waiting_changes") ?? 0 > 0)
        redis.resume()
        try await eventually { router.metric("convergence_age_seconds") == 0 }
        try await eventually { try await control.send("DBSIZE") == 6 }
        try await control.finish()
        try await router.finish()
    }

    @Test(arguments: ["read-only", "full"]) func aServerThatRefusesIsCaughtUpWith(
        _ state: String
    ) async throws {
        let redis = try RedisServer()
        let router = try await UpstreamRouter(redis)
        let control = try await RedisControl(redis)
        let keys = router.keys(of: prompt).map { "\($0)" }
        try await router.apply { [prompt] in $0.store([1, 2], tokens: Array(prompt[..<8])) }
        try await eventually { try await control.send("DBSIZE") == 4 }
        for key in keys { _ = try await control.send("HSET", key, goField(5), "") }
        if state == "full" {
            _ = try await control.send("CONFIG", "SET", "maxmemory", "1")
        } else {
            _ = try await control.send("REPLICAOF", "127.0.0.1", "1")
        }
        try await router.apply { $0.store([9], tokens: [9, 9, 9, 9]) }
        try await router.apply { $0.remove([2]) }
        try await eventually { router.metric("refused_batches_total") ?? 0 > 0 }
        // What others wrote is still followed; what is gone by the events is not taken over again.
        try await router.update([pod(1), pod(5)])
        try await eventually { router.matched(prompt, on: "pod5") == 4 }
        #expect(router.matched(prompt) == 1)
        if state == "full" {
            _ = try await control.send("CONFIG", "SET", "maxmemory", "0")
        } else {
            _ = try await control.send("REPLICAOF", "NO", "ONE")
        }
        let new = "\(router.keys(of: [9, 9, 9, 9])[0])"
        try await eventually { try await control.send("EXISTS", new) == 1 }
        try await eventually { try await control.texts("HKEYS", keys[1]) == [goField(5)] }
        try await control.finish()
        try await router.finish()
    }
}
