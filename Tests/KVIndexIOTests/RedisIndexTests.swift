import Core
import KVIndexIO
import LoopbackSupport
import RedisClient
import Testing

@Suite(.timeLimit(.minutes(2))) struct RedisIndexTests {
    @Test func aNewRouterTakesOverWhatOthersKnow() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let held = blocks(0..<5000) + blocks(5000..<5100, .cpu)
        try await first.store(held)
        let second = try await SharingRouter(redis)
        try await second.hears(Set(held))
        // Also when the first is gone.
        try await first.finish()
        let third = try await SharingRouter(redis)
        try await third.hears(Set(held))
        try await second.finish()
        try await third.finish()
    }

    @Test func routersFollowChanges() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis, endpoints: ["e", "f"])
        let second = try await SharingRouter(redis, endpoints: ["e", "f"])
        try await first.store(blocks(0..<100))
        try await first.store(blocks(0..<10), at: "f")
        try await second.hears(Set(blocks(0..<100)))
        try await first.remove(blocks(10..<20))
        try await first.store(blocks(0..<1, .cpu))
        try await second.hears(
            Set(blocks(0..<10) + blocks(20..<100) + blocks(0..<1, .cpu)))
        try await first.call { $0.cleared("e") }
        try await first.store(blocks(200..<210))
        try await second.hears(Set(blocks(200..<210)))
        try await second.hears(Set(blocks(0..<10)), of: "f")
        try await first.finish()
        try await second.finish()
    }

    @Test func aBlockStoredTwiceStaysUntilItIsRemovedTwice() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        try await first.store(blocks(0..<2) + blocks(0..<1))
        try await second.hears(Set(blocks(0..<2)))
        try await first.remove(blocks(0..<2))
        try await second.hears(Set(blocks(0..<1)))
        try await first.remove(blocks(0..<1))
        try await second.hears([])
        try await first.finish()
        try await second.finish()
    }

    @Test func aServerThatComesBackEmptyIsFilledAgain() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        try await first.store(blocks(0..<3000))
        let second = try await SharingRouter(redis)
        try await second.hears(Set(blocks(0..<3000)))
        try await second.finish()
        redis.kill()
        try await first.remove(blocks(0..<10))
        try await first.store(blocks(3000..<3010))
        try redis.start()
        let third = try await SharingRouter(redis)
        try await third.hears(Set(blocks(10..<3010)))
        try await first.finish()
        try await third.finish()
    }

    @Test func routersThatFollowLoseNothingWithAnEmptyRedis() async throws {
        let redis = try RedisServer()
        // The follower is back long before the writer.
        let first = try await SharingRouter(redis) {
            $0.redis.reconnectDelay = .milliseconds(200)...(.milliseconds(200))
        }
        let second = try await SharingRouter(redis)
        try await first.store(blocks(0..<5000))
        try await second.hears(Set(blocks(0..<5000)))
        redis.kill()
        try await first.remove(blocks(0..<50))
        try redis.start()
        try await second.hears(Set(blocks(50..<5000)))
        #expect(second.replica.removed == Set(blocks(0..<50)))
        try await first.finish()
        try await second.finish()
    }

    @Test func anEmptiedRedisIsFilledAgain() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        try await first.store(blocks(0..<5000))
        try await second.hears(Set(blocks(0..<5000)))
        let control = try await RedisControl(redis)
        _ = try await control.send("FLUSHALL")
        try await first.store(blocks(5000..<5010))
        try await second.hears(Set(blocks(0..<5010)))
        #expect(second.replica.removed.isEmpty)
        let third = try await SharingRouter(redis)
        try await third.hears(Set(blocks(0..<5010)))
        try await control.finish()
        try await first.finish()
        try await second.finish()
        try await third.finish()
    }

    @Test func aServerThatHangsIsCaughtUpWith() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        try await first.store(blocks(0..<10))
        try await second.hears(Set(blocks(0..<10)))
        redis.suspend()
        for start in stride(from: UInt64(10), to: 1000, by: 10) {
            try await first.store(blocks(start..<(start + 10)))
        }
        try await first.remove(blocks(0..<5))
        redis.resume()
        try await second.hears(Set(blocks(5..<1000)))
        try await first.finish()
        try await second.finish()
    }

    @Test func aReadOnlyServerIsCaughtUpWith() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        try await first.store(blocks(0..<10))
        try await second.hears(Set(blocks(0..<10)))
        let control = try await RedisControl(redis)
        _ = try await control.send("REPLICAOF", "127.0.0.1", "1")
        try await first.store(blocks(10..<20))
        while first.metric("llm_d_epp_kv_cache_redis_refused_batches_total") == 0 {
            _ = try await control.send("PING")
        }
        try await first.remove(blocks(0..<1))
        _ = try await control.send("REPLICAOF", "NO", "ONE")
        try await second.hears(Set(blocks(1..<20)))
        try await control.finish()
        try await first.finish()
        try await second.finish()
    }

    @Test func anotherRouterWritesWhenTheFirstIsGone() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        let third = try await SharingRouter(redis)
        try await first.store(blocks(0..<10))
        try await third.hears(Set(blocks(0..<10)))
        // Both get the events from now on; the second has the first ones from Redis.
        try await second.hears(Set(blocks(0..<10)))
        try await first.store(blocks(10..<20))
        try await second.store(blocks(10..<20))
        try await third.hears(Set(blocks(0..<20)))
        try await first.finish()
        try await second.remove(blocks(0..<5))
        try await third.hears(Set(blocks(5..<20)))
        try await second.finish()
        try await third.finish()
    }

    @Test func anotherRouterWritesWhenTheFirstLostItsEvents() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        let second = try await SharingRouter(redis)
        let third = try await SharingRouter(redis)
        try await first.store(blocks(0..<10))
        try await third.hears(Set(blocks(0..<10)))
        try await second.hears(Set(blocks(0..<10)))
        // Both get the events; then only the second.
        try await first.store(blocks(10..<20))
        try await second.store(blocks(10..<20))
        try await third.hears(Set(blocks(0..<20)))
        try await first.call { $0.lost("e") }
        try await second.remove(blocks(0..<5))
        try await third.hears(Set(blocks(5..<20)))
        for router in [first, second, third] { try await router.finish() }
    }

    @Test func moreChangesThanMayWaitAreFoundByComparing() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis) { $0.maximumWaitingChanges = 100 }
        try await first.store(blocks(0..<10))
        let second = try await SharingRouter(redis)
        try await second.hears(Set(blocks(0..<10)))
        try await first.store(blocks(10..<2000))
        try await first.remove(blocks(0..<5))
        try await second.hears(Set(blocks(5..<2000)))
        #expect(first.metric("llm_d_epp_kv_cache_redis_dropped_batches_total") ?? 0 > 0)
        try await first.finish()
        try await second.finish()
    }

    @Test func anEndpointThatNobodySpeaksForIsForgotten() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis) { $0.endpointLifetime = .milliseconds(300) }
        try await first.store(blocks(0..<1000))
        let control = try await RedisControl(redis)
        while try await control.send("DBSIZE") < 1000 {}
        try await first.finish()
        // Who keeps house is any router, of whatever pool.
        let other = try await SharingRouter(redis, endpoints: []) {
            $0.housekeepingInterval = .milliseconds(50)
        }
        while try await control.send("DBSIZE") > 10 {}
        try await control.finish()
        try await other.finish()
    }

    @Test func eventsDoNotCountTwiceWhatRedisToldBefore() async throws {
        let redis = try RedisServer()
        let first = try await SharingRouter(redis)
        try await first.store(blocks(0..<10))
        let second = try await SharingRouter(redis)
        try await second.hears(Set(blocks(0..<10)))
        // The engine tells again: the index is to take one of the two back.
        try await second.store(blocks(0..<3))
        try await second.hears(Set(blocks(3..<10)))
        try await first.finish()
        try await second.finish()
    }

    @Test func lookupsCountBlocksWithoutGaps() async throws {
        let redis = try RedisServer()
        let router = try await SharingRouter(redis, endpoints: ["e", "f", "g"])
        let watcher = try await SharingRouter(redis, endpoints: ["e", "f", "g"])
        let prompt = blocks(0..<600)
        try await router.store(Array(prompt[..<512]))
        try await router.store(blocks(0..<7, .cpu) + Array(prompt[8..<20]), at: "f")
        try await router.store(Array(prompt[1...]), at: "g")
        try await watcher.hears(Set(prompt[..<512]))
        try await watcher.hears(Set(blocks(0..<7, .cpu) + prompt[8..<20]), of: "f")
        try await watcher.hears(Set(prompt[1...]), of: "g")
        let control = try await RedisControl(redis)
        #expect(try await control.lookup(prompt.map(\.key)) == ["e": 512, "f": 7])
        #expect(try await control.lookup([1, 2]) == [:])
        try await control.finish()
        try await router.finish()
        try await watcher.finish()
    }
}
