import Core
import KVIndex
import KVIndexIO
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1)))
struct QuarantineTests {
    private let prompt: [UInt32] = Array(1...16)
    /// Not msgpack; an array that promises more than there is; a batch whose events are none.
    private let rubbish: [[UInt8]] = [
        [0xc1, 0xff], [0xdd, 0xff, 0xff, 0xff, 0xff], [0x93, 0x01, 0x05, 0xc0], [],
    ]

    private func page(_ stack: Stack) -> String {
        String(decoding: stack.registry.exposition(), as: UTF8.self)
    }

    @Test func hostileEngineIsIgnoredAndHarmsNoOther() async throws {
        let stack = try Stack()
        let (good, bad) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("good", at: good, replay: good + "-r")
        try await stack.startEngine("bad", at: bad, replay: bad + "-r")
        stack.source.update([
            server("good", events: good, replay: good + "-r"),
            server("bad", events: bad, replay: bad + "-r", port: 2),
        ])
        for name in ["good", "bad"] {
            try await stack.publish(name, storePayload([1, 2], tokens: Array(1...8)))
            try await eventually { stack.matched(prompt, on: name) == 2 }
        }
        for number in 0..<7 { try await stack.publish("bad", rubbish[number % 4]) }
        try await eventually { stack.state(of: "bad")?.decodeErrorCount == 7 }
        #expect(stack.matched(prompt, on: "bad") == 2)
        #expect(stack.state(of: "bad")?.quarantineEnd == nil)

        try await stack.publish("bad", rubbish[0])
        try await eventually { stack.state(of: "bad")?.quarantineEnd != nil }
        #expect(stack.matched(prompt, on: "bad") == 0)
        #expect(stack.state(of: "bad")?.quarantineCount == 1)
        #expect(stack.state(of: "bad")?.isConnected == false)
        #expect(stack.state(of: "bad")?.sequence.lostCount == 8)
        let metrics = page(stack)
        for line in [
            "decode_errors_total 8", "lost_batches_total 8", "quarantines_total 1",
            "quarantined_engines 1", "active_subscribers 1",
        ] {
            #expect(metrics.contains("\nllm_d_epp_kv_cache_events_\(line)\n"), "\(line)")
        }
        // The good one goes on; the bad one is not heard, whatever it says.
        try await stack.publish("bad", storePayload([1, 2], tokens: Array(1...8)))
        try await stack.publish("good", storePayload([3], parent: 2, tokens: Array(9...12)))
        try await eventually { stack.matched(prompt, on: "good") == 3 }
        #expect(stack.matched(prompt, on: "bad") == 0)
        #expect(stack.state(of: "good")?.quarantineCount == 0)

        stack.source.update([server("good", events: good, replay: good + "-r")])
        try await eventually { stack.state(of: "bad") == nil }
        #expect(page(stack).contains("quarantined_engines 0\n"))
        #expect(stack.matched(prompt, on: "good") == 3)
        try await stack.finish()
    }

    @Test func engineThatBehavesAgainComesBack() async throws {
        let stack = try Stack { $0.quarantine.cooldown = .milliseconds(200) }
        let events = ipcEndpoint()
        try await stack.startEngine("a", at: events, replay: events + "-r")
        stack.source.update([server("a", events: events, replay: events + "-r")])
        try await stack.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        try await eventually { stack.matched(prompt, on: "a") == 2 }
        for number in 0..<8 { try await stack.publish("a", rubbish[number % 4]) }
        try await eventually { stack.state(of: "a")?.quarantineCount == 1 }
        // Sent while nobody listens: the replay brings it, and not the bad ones again.
        try await stack.publish("a", storePayload([5], tokens: Array(21...24)))
        try await eventually { stack.matched(Array(21...24), on: "a") == 1 }
        let state = try #require(stack.state(of: "a"))
        #expect(state.quarantineEnd == nil && state.isConnected)
        #expect(state.quarantineCount == 1 && state.decodeErrorCount == 8)
        #expect(state.sequence.restartCount == 0)
        #expect(stack.matched(prompt, on: "a") == 0)
        try await stack.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        try await eventually { stack.matched(prompt, on: "a") == 2 }
        #expect(page(stack).contains("quarantined_engines 0\n"))
        try await stack.finish()
    }

    /// An engine whose whole past is bad: the replay that begins with its connection.
    @Test func badReplaysCountToo() async throws {
        let stack = try Stack()
        let events = ipcEndpoint()
        try await stack.startEngine("a", at: events, replay: events + "-r")
        for _ in 0..<20 { try await stack.publish("a", rubbish[0]) }
        stack.source.update([server("a", events: events, replay: events + "-r")])
        try await eventually { stack.state(of: "a")?.quarantineEnd != nil }
        #expect(stack.state(of: "a")?.decodeErrorCount == 8)
        try await stack.finish()
    }

    @Test func hostileEngineAmongThoseThatConnectToUs() async throws {
        let stack = try Stack {
            $0.fanInEndpoint = "tcp://lo:*"
            $0.quarantine.limit = 3
        }
        let endpoint = try #require(try await stack.source.listen())
        try await stack.startEngine("good", at: endpoint, topic: "kv@good@m")
        try await stack.startEngine("bad", at: endpoint, topic: "kv@bad@m")
        stack.source.update([server("good", events: nil), server("bad", events: nil, port: 2)])
        for name in ["good", "bad"] {
            try await eventually {
                try await stack.publish(name, storePayload([1, 2], tokens: Array(1...8)))
                return stack.matched(prompt, on: name) == 2
            }
        }
        for _ in 0..<3 { try await stack.publish("bad", rubbish[0]) }
        try await eventually { stack.state(of: "bad")?.quarantineEnd != nil }
        #expect(stack.matched(prompt, on: "bad") == 0)
        try await stack.publish("bad", storePayload([1, 2], tokens: Array(1...8)))
        try await stack.publish("good", storePayload([3], parent: 2, tokens: Array(9...12)))
        try await eventually { stack.matched(prompt, on: "good") == 3 }
        #expect(stack.matched(prompt, on: "bad") == 0)
        #expect(stack.state(of: "bad")?.decodeErrorCount == 3)
        try await stack.finish()
    }
}
