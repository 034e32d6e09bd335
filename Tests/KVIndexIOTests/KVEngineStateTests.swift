import Core
import Foundation
import KVIndex
import KVIndexIO
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1)))
struct KVEngineStateTests {
    @Test(
        arguments: [
            (nil, nil, 0), (nil, 5, 6), (5, 5, 0), (5, 9, 4), (9, 5, 0), (7, nil, 0),
            (nil, .max, .max),
            (0, .max, .max),
        ] as [(UInt64?, UInt64?, UInt64)])
    func lagIsWhatWasSeenAndNotApplied(_ last: UInt64?, _ live: UInt64?, _ lag: UInt64) {
        var state = KVEngineState(name: "a")
        state.sequence.lastSequence = last
        state.sequence.lastLiveSequence = live
        #expect(state.lagCount == lag)
    }

    private struct Page: Decodable {
        struct Engine: Decodable {
            var name: String
            var connected: Bool
            var last_sequence: UInt64?
            var last_live_sequence: UInt64?
            var lag_batches: UInt64
            var lost_batches: UInt64
            var blocks: Int
            var parked_stores: Int
            var quarantines: Int
            var quarantine_seconds_left: Double?
        }
        var engines: [Engine]
    }

    @Test func jsonTellsEverythingAndEscapesNames() throws {
        let now = MonotonicTime(nanoseconds: 5_000_000_000)
        let hostile = "a\"},{\"name\":\"b\u{0}\n\r\u{2028}\\"
        var state = KVEngineState(name: hostile)
        state.isConnected = true
        state.sequence.lastSequence = 3
        state.sequence.lastLiveSequence = .max
        state.sequence.lostCount = .max
        state.index.blockCount = 12
        state.index.parkedCount = 4
        state.quarantineCount = 2
        state.quarantineEnd = now + .milliseconds(1500)
        let bytes = KVEngineState.json([state, KVEngineState(name: "c")], at: now)
        let page = try JSONDecoder().decode(Page.self, from: Data(bytes))
        #expect(page.engines.map(\.name) == [hostile, "c"])
        let first = page.engines[0]
        #expect(first.connected && first.last_sequence == 3 && first.last_live_sequence == .max)
        #expect(first.lag_batches == .max - 3 && first.lost_batches == .max)
        #expect(first.blocks == 12 && first.parked_stores == 4)
        #expect(first.quarantines == 2 && first.quarantine_seconds_left == 1.5)
        #expect(page.engines[1].last_sequence == nil)
        #expect(page.engines[1].quarantine_seconds_left == nil)
        // Over, but not ended yet.
        let late = KVEngineState.json([state], at: now + .seconds(2))
        #expect(String(decoding: late, as: UTF8.self).contains(#""quarantine_seconds_left":0.0"#))
        #expect(String(decoding: KVEngineState.json([]), as: UTF8.self) == #"{"engines":[]}"#)
    }

    private func series(_ stack: Stack, of label: String) -> Set<Substring> {
        let page = String(decoding: stack.registry.exposition(), as: UTF8.self)
        return Set(page.split(separator: "\n").filter { $0.contains("endpoint=\"\(label)\"") })
    }

    @Test func everyEngineHasSeriesAsLongAsItIsThere() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        let hostile = "b\"} 1\nx{a=\"\\"
        try await stack.startEngine("a", at: events, replay: replay)
        try await stack.publish("a", storePayload([1, 2], tokens: Array(1...8)))
        // Its parent never comes.
        try await stack.publish("a", storePayload([8], parent: 7, tokens: Array(9...12)))
        let a = server("a", events: events, replay: replay)
        stack.source.update([a, server(hostile, events: nil, port: 2)])
        try await eventually { stack.state(of: "a")?.sequence.lastSequence == 1 }
        let prefix = "llm_d_epp_kv_cache_events_"
        try await eventually {
            series(stack, of: "a") == [
                "\(prefix)last_sequence{endpoint=\"a\"} 1",
                "\(prefix)lag_batches{endpoint=\"a\"} 0",
                "\(prefix)parked_stores{endpoint=\"a\"} 1",
                "\(prefix)engine_blocks{endpoint=\"a\"} 2",
                "\(prefix)engine_quarantined{endpoint=\"a\"} 0",
            ]
        }
        // No sequence number yet.
        #expect(series(stack, of: #"b\"} 1\nx{a=\"\\"#).count == 4)
        stack.source.update([server(hostile, events: nil, port: 2)])
        try await eventually { series(stack, of: "a").isEmpty }
        try await stack.finish()
        #expect(!String(decoding: stack.registry.exposition(), as: UTF8.self).contains("{endpoint"))
    }
}
