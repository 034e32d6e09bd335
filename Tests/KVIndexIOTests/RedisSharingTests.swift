import Configuration
import Core
import Hashing
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net
import RedisClient
import Telemetry
import Testing

/// The section `redisConfig`, and what it makes of an event source.
@Suite(.timeLimit(.minutes(1))) struct RedisSharingTests {
    private func sharing(_ text: String) throws -> RedisSharing {
        try RedisSharing(parsing: ConfigValue(parsing: text, file: "router.yaml"))
    }

    @Test func theLayoutIsOursUnlessToldOtherwise() throws {
        for text in ["address: redis://x", "address: redis://x\nlayout: llmd"] {
            let ours = try sharing(text)
            #expect(ours.keyAlgorithm == .xxh64)
            guard case .llmd = ours else {
                Issue.record("another layout")
                return
            }
        }
        let theirs = try sharing("address: valkey://x:7000/3\nlayout: llm-d\nbackendType: valkey")
        #expect(theirs.keyAlgorithm == .cborFNV)
        guard case .upstream(let configuration) = theirs else {
            Issue.record("another layout")
            return
        }
        #expect(configuration.redis.remote == .tcp(SocketAddress(host: "x", port: 7000)))
        #expect(configuration.redis.database == 3)
    }

    @Test(arguments: [
        ("address: redis://x\nlayout: lmd", "router.yaml:2"),
        ("address: redis://x\nlayout: [llmd]", "router.yaml:2"),
        ("address: redis://x\nlayout: llm-d\nnamespace: a", "router.yaml:3"),
    ])
    func tellsWhatIsWrongAndWhere(_ text: String, _ part: String) {
        #expect {
            try sharing(text)
        } throws: { error in
            "\(error)".contains(part)
        }
    }

    @Test func routersShareInLLMDsLayout() async throws {
        let redis = try RedisServer()
        let sharing = try sharing("address: unix://\(redis.socketPath)\nlayout: llm-d")
        let (first, second) = (try Stack(), try Stack())
        sharing.start(for: first.source, registry: first.registry)
        sharing.start(for: second.source, registry: second.registry)
        let events = ipcEndpoint()
        try await first.startEngine("a", at: events, replay: events + "-r")
        try await first.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        first.source.update([server("a", events: events, replay: events + "-r")])
        // Another name for the same server: what counts is the address.
        second.source.update([server("b", events: nil)])
        let prompt: [UInt32] = Array(1...16)
        let keys = second.index.hasher(model: "m").keys(of: prompt.span)
        try await eventually {
            second.index.recentLookups.note(keys)
            return second.matched(prompt, on: "b") == 2
        }
        // What was taken over of a server goes with it.
        second.source.update([])
        try await eventually { second.index.statistics.blockCount == 0 }
        try await first.finish()
        try await second.finish()
    }
}
