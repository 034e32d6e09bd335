import Configuration
import Core
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net
import RedisClient
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1))) struct SharedSourceTests {
    private let prompt: [UInt32] = Array(1...16)

    private func share(_ stack: Stack, through redis: RedisServer) {
        var configuration = RedisIndexBackend.Configuration(
            redis: RedisConfiguration(remote: .unix(path: redis.socketPath)))
        configuration.redis.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        configuration.pollInterval = .milliseconds(10)
        let metrics = RedisIndexMetrics(stack.registry)
        stack.source.share { [configuration] in
            try RedisIndexBackend(configuration, in: $0, metrics: metrics)
        }
    }

    @Test func aRouterWithoutEventsRoutesByWhatOthersTell() async throws {
        let redis = try RedisServer()
        let (first, second) = (try Stack(), try Stack())
        share(first, through: redis)
        share(second, through: redis)
        let events = ipcEndpoint()
        try await first.startEngine("a", at: events, replay: events + "-r")
        try await first.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        first.source.update([server("a", events: events, replay: events + "-r")])
        second.source.update([server("a", events: nil)])
        try await eventually { second.matched(prompt, on: "a") == 2 }
        try await first.publish("a", storePayload([3, 4], parent: 2, tokens: Array(9...16)))
        try await eventually { second.matched(prompt, on: "a") == 4 }
        // A router without Redis' help answers as before.
        redis.kill()
        #expect(first.matched(prompt, on: "a") == 4)
        #expect(second.matched(prompt, on: "a") == 4)
        try await first.finish()
        try await second.finish()
    }

    @Test func ranksAreSharedByTheirNames() async throws {
        let redis = try RedisServer()
        let (first, second) = (try Stack(), try Stack())
        share(first, through: redis)
        share(second, through: redis)
        let events = ipcEndpoint()
        for (rank, suffix) in ["", "_dp1"].enumerated() {
            try await first.startEngine(
                "r\(rank)", at: events + suffix, replay: events + "-r" + suffix)
        }
        try await first.publish("r0", storePayload([1, 2], tokens: Array(1...8)))
        try await first.publish("r1", storePayload([1, 2, 3], tokens: Array(1...12), rank: 1))
        var engine = server("a", events: events, replay: events + "-r")
        engine.dataParallelSize = 2
        first.source.update([engine])
        (engine.eventsEndpoint, engine.replayEndpoint) = (nil, nil)
        second.source.update([engine])
        for stack in [first, second] {
            try await eventually {
                stack.matched(prompt, on: "a") == 2 && stack.matched(prompt, on: "a@dp1") == 3
            }
        }
        try await first.stopEngine("r1")
        try await first.startEngine("r1", at: events + "_dp1", replay: events + "-r_dp1")
        try await eventually { second.matched(prompt, on: "a@dp1") == 0 }
        #expect(second.matched(prompt, on: "a") == 2)
        try await first.finish()
        try await second.finish()
    }

    @Test func aRestartedRouterGoesOnWhereItsPredecessorWas() async throws {
        let redis = try RedisServer()
        let events = ipcEndpoint()
        let old = try Stack()
        share(old, through: redis)
        try await old.startEngine("a", at: events)
        old.source.update([server("a", events: events)])
        try await eventually { old.state(of: "a")?.isConnected == true }
        try await eventually {
            try await old.publish("a", storePayload([1, 2], tokens: Array(1...8)))
            return old.matched(prompt, on: "a") == 2
        }
        // Another router sees it in Redis before the first goes.
        let new = try Stack()
        share(new, through: redis)
        new.source.update([server("a", events: events)])
        try await eventually { new.matched(prompt, on: "a") == 2 }
        // Its engine goes on to talk: the parent is known from Redis alone.
        try await eventually {
            try await old.publish("a", storePayload([3], parent: 2, tokens: Array(9...12)))
            return new.matched(prompt, on: "a") == 3
        }
        try await old.finish()
        try await new.finish()
    }

    private func configuration(_ text: String) throws -> RedisIndexBackend.Configuration {
        let sharing = try RedisSharing(parsing: ConfigValue(parsing: text, file: "router.yaml"))
        guard case .llmd(let configuration) = sharing else {
            throw ConfigError(file: "router.yaml", line: nil, problem: "another layout")
        }
        return configuration
    }

    @Test func readsUpstreamsNames() throws {
        let read = try configuration(
            """
            address: "valkey://10.0.0.5:6380/2"
            backendType: valkey
            namespace: prod
            """)
        #expect(
            read.redis.remote == .tcp(SocketAddress(host: "10.0.0.5", port: 6380)))
        #expect(read.redis.database == 2)
        #expect(read.namespace == "prod")
    }

    @Test(arguments: [
        ("namespace: a", "router.yaml"),
        ("namespace: a\naddress: ftp://x", "router.yaml:2"),
        ("address: redis://x\nbackendType: mysql", "router.yaml:2"),
        ("address: redis://x\ncaFile: /none", "rediss://"),
        ("address: rediss://x\ncaFile: /none", "router.yaml:2"),
        ("address: redis://x\npasswordFile: /none", "router.yaml:2"),
        ("address: redis://x\nnamespace: \"a{b\"", "braces"),
        ("address: redis://x\nenableRDMA: true", "enableRDMA"),
    ])
    func tellsWhatIsWrongAndWhere(_ text: String, _ part: String) {
        #expect {
            try configuration(text)
        } throws: { error in
            "\(error)".contains(part)
        }
    }
}
