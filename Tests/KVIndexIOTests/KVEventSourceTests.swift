import Core
import KVIndex
import KVIndexIO
import Messaging
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1)))
struct KVEventSourceTests {
    private let prompt: [UInt32] = Array(1...16)

    @Test func lateSourceCatchesUpAndFollows() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        stack.source.update([server("a", events: events, replay: replay)])
        try await eventually { stack.matched(prompt, on: "a") == 2 }
        try await stack.publish("a", storePayload([3], parent: 2, tokens: Array(9...12)))
        try await eventually { stack.matched(prompt, on: "a") == 3 }
        let state = try #require(stack.state(of: "a"))
        #expect(state.isConnected)
        #expect(state.sequence.lastSequence == 1)
        #expect(state.index.blockCount == 3)
        try await stack.finish()
    }

    @Test func lostBatchesAreAskedForAgain() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        let batches = [
            storePayload([1], tokens: Array(1...4)),
            storePayload([2], parent: 1, tokens: Array(5...8)),
            storePayload([3], parent: 2, tokens: Array(9...12)),
            storePayload([4], parent: 3, tokens: Array(13...16)),
        ]
        try await stack.startLossyEngine(at: events, replay: replay, batches: batches)
        stack.source.update([server("a", events: events, replay: replay)])
        // By the replay of the first connection.
        try await eventually { stack.matched(prompt, on: "a") == 4 }
        // Number 5 is sent but 4 is not; the replay has neither, so the gap stays.
        try await eventually {
            try await stack.sendLossy(5, storePayload([9], tokens: Array(21...24)))
            return stack.state(of: "a")?.sequence.gapCount ?? 0 > 0
        }
        try await eventually { stack.state(of: "a")?.sequence.lostCount == 1 }
        #expect(stack.matched(Array(21...24), on: "a") == 1)
        #expect(stack.matched(prompt, on: "a") == 4)
        try await stack.finish()
    }

    @Test func restartedEngineLosesWhatItHeld() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1, 2, 3, 4], tokens: prompt))
        stack.source.update([server("a", events: events, replay: replay)])
        try await eventually { stack.matched(prompt, on: "a") == 4 }
        try await stack.stopEngine("a")
        try await eventually { stack.state(of: "a")?.isConnected == false }
        // What it held may still be used until it is known to be another process, which it shows
        // before it has published anything.
        try await stack.startEngine("a", at: events, replay: replay)
        try await eventually { stack.matched(prompt, on: "a") == 0 }
        try await stack.publish("a", storePayload([1], tokens: Array(1...4)))
        try await eventually { stack.matched(prompt, on: "a") == 1 }
        #expect(stack.state(of: "a")?.sequence.restartCount == 1)
        try await stack.finish()
    }

    /// The new process publishes as many batches as the old one before it is seen.
    @Test func restartIsSeenBehindEqualNumbers() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1, 2, 3, 4], tokens: prompt))
        stack.source.update([server("a", events: events, replay: replay)])
        try await eventually { stack.matched(prompt, on: "a") == 4 }
        try await stack.stopEngine("a")
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1], tokens: Array(31...34)))
        try await stack.publish("a", storePayload([2], tokens: Array(41...44)))
        try await eventually {
            stack.matched(prompt, on: "a") == 0 && stack.matched(Array(31...34), on: "a") == 1
                && stack.matched(Array(41...44), on: "a") == 1
        }
        try await stack.finish()
    }

    @Test func poolChangesTakeEffect() async throws {
        let stack = try Stack()
        let endpoints = [ipcEndpoint(), ipcEndpoint(), ipcEndpoint(), ipcEndpoint()]
        for (name, number) in [("a", 0), ("b", 2)] {
            try await stack.startEngine(
                name, at: endpoints[number], replay: endpoints[number + 1])
            try await stack.publish(name, storePayload([1, 2, 3, 4], tokens: prompt))
        }
        let a = server("a", events: endpoints[0], replay: endpoints[1])
        let b = server("b", events: endpoints[2], replay: endpoints[3])
        stack.source.update([a, b])
        try await eventually {
            stack.matched(prompt, on: "a") == 4 && stack.matched(prompt, on: "b") == 4
        }
        stack.source.update([b])
        try await eventually { stack.index.endpoint(named: "a") == nil }
        #expect(stack.matched(prompt, on: "b") == 4)
        #expect(stack.source.engines.map(\.name) == ["b"])
        // The same name in another place: what it held is gone.
        stack.source.update([server("b", events: nil, port: 2)])
        try await eventually { stack.matched(prompt, on: "b") == 0 }
        #expect(stack.index.endpoint(named: "b") != nil)
        #expect(stack.index.statistics.blockCount == 0)
        try await stack.finish()
    }

    @Test func enginesConnectToUs() async throws {
        let stack = try Stack { $0.fanInEndpoint = "tcp://lo:*" }
        let endpoint = try #require(try await stack.source.listen())
        let replay = ipcEndpoint()
        try await stack.startEngine(
            "a", at: endpoint, replay: replay, topic: "kv@10.0.0.7:8000@m")
        try await stack.startEngine("stranger", at: endpoint, topic: "kv@10.9.9.9:8000@m")
        stack.source.update([server("a", events: nil, replay: replay, port: 8000)])
        try await stack.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        // Batches before the subscription reached the engines are lost; the next one brings a
        // replay of them.
        try await eventually {
            try await stack.publish("a", storePayload([3], parent: 2, tokens: Array(9...12)))
            return stack.matched(prompt, on: "a") == 3
        }
        try await eventually {
            try await stack.publish("stranger", storePayload([1], tokens: Array(1...4)))
            let page = String(decoding: stack.registry.exposition(), as: UTF8.self)
            return !page.contains("llm_d_epp_kv_cache_events_unknown_engines_total 0")
        }
        try await stack.finish()
    }

    @Test func modelsThatNoTopicTellsAreThoseOfTheServers() async throws {
        let stack = try Stack { $0.defaultModel = "other" }
        var servers: [ModelServer] = []
        for name in ["a", "b"] {
            let events = ipcEndpoint()
            try await stack.startEngine(name, at: events, topic: name == "a" ? "" : "kv@e@m")
            var engine = server(name, events: events, port: name == "a" ? 1 : 2)
            engine.eventsModel = name == "a" ? "m" : "not this"
            servers.append(engine)
        }
        stack.source.update(servers)
        for name in ["a", "b"] {
            // What was published before the subscription reached the engine is lost.
            try await eventually {
                try await stack.publish(name, storePayload([1], tokens: Array(1...4)))
                return stack.matched(prompt, on: name) == 1
            }
        }
        try await stack.finish()
    }

    @Test func badBatchesAreCountedAndPassedOver() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", [0xc1, 0xff])
        try await stack.publish("a", storePayload([1], tokens: Array(1...4)))
        stack.source.update([server("a", events: events, replay: replay)])
        try await eventually { stack.matched(prompt, on: "a") == 1 }
        #expect(stack.state(of: "a")?.decodeErrorCount == 1)
        let page = String(decoding: stack.registry.exposition(), as: UTF8.self)
        for line in [
            "llm_d_epp_kv_cache_events_decode_errors_total 1",
            "llm_d_epp_kv_cache_events_messages_received_total 2",
            "llm_d_epp_kv_cache_events_active_subscribers 1",
            "llm_d_epp_kv_cache_events_replays_total 1",
            "llm_d_epp_kv_cache_index_admissions_total 1",
            "llm_d_epp_kv_cache_index_blocks 1",
        ] {
            #expect(page.contains("\n\(line)\n"), "\(line)")
        }
        try await stack.finish()
    }

    @Test func endpointThatCannotBeOpenedHarmsNoOther() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1], tokens: Array(1...4)))
        stack.source.update([
            server("bad", events: "nonsense"), server("a", events: events, replay: replay),
        ])
        try await eventually { stack.matched(prompt, on: "a") == 1 }
        #expect(stack.state(of: "bad")?.isConnected == false)
        try await stack.finish()
    }
}
