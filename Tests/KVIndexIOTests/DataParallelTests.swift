import Core
import KVIndex
import KVIndexIO
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1)))
struct DataParallelTests {
    private let prompt: [UInt32] = Array(1...16)

    private func server(
        _ name: String, ranks: Int, events: String?, replay: String? = nil, port: UInt16 = 8000
    ) -> ModelServer {
        ModelServer(
            name: name, address: SocketAddress(host: "10.0.0.7", port: port),
            eventsEndpoint: events, replayEndpoint: replay, dataParallelSize: ranks)
    }

    @Test func ranksBehindOneAddressAreEnginesOfTheirOwn() async throws {
        let stack = try Stack()
        let (events, replay) = (ipcEndpoint(), ipcEndpoint())
        // Where vLLM puts rank 1.
        try await stack.startEngine("r0", at: events, replay: replay)
        try await stack.startEngine("r1", at: events + "_dp1", replay: replay + "_dp1")
        // Numbers and hashes are the same, the blocks are not.
        try await stack.publish("r0", storePayload([1, 2], tokens: Array(1...8)))
        try await stack.publish("r1", storePayload([1, 2], tokens: Array(21...28), rank: 1))
        stack.source.update([server("a", ranks: 2, events: events, replay: replay)])
        try await eventually {
            stack.matched(prompt, on: "a") == 2 && stack.matched(Array(21...28), on: "a@dp1") == 2
        }
        #expect(stack.matched(Array(21...28), on: "a") == 0)
        #expect(stack.matched(prompt, on: "a@dp1") == 0)
        #expect(stack.source.engines.map(\.name) == ["a", "a@dp1"])
        #expect(stack.source.engines.allSatisfy { $0.sequence.restartCount == 0 })
        let ranks = stack.index.ranks(of: ["a", "b"])
        #expect(ranks.map { $0.map(\.rank) } == [[0, 1], []])
        #expect(ranks[0].map(\.handle) == stack.index.endpoints(named: ["a", "a@dp1"]))

        // One rank restarts: the other keeps what it has.
        try await stack.stopEngine("r1")
        try await stack.startEngine("r1", at: events + "_dp1", replay: replay + "_dp1")
        try await eventually { stack.matched(Array(21...28), on: "a@dp1") == 0 }
        try await stack.publish("r0", storePayload([3], parent: 2, tokens: Array(9...12)))
        try await eventually { stack.matched(prompt, on: "a") == 3 }
        #expect(stack.state(of: "a")?.sequence.restartCount == 0)
        #expect(stack.state(of: "a@dp1")?.sequence.restartCount == 1)

        // Fewer ranks: what the others held is gone with their names.
        stack.source.update([server("a", ranks: 1, events: events, replay: replay)])
        try await eventually { stack.index.endpoint(named: "a@dp1") == nil }
        try await eventually { stack.matched(prompt, on: "a") == 3 }
        #expect(stack.source.engines.map(\.name) == ["a"])
        try await stack.finish()
    }

    /// A stack that two engines connect to; `good` is there only for comparison.
    private func fanIn(ranks: Int) async throws -> Stack {
        let stack = try Stack {
            $0.fanInEndpoint = "tcp://lo:*"
            $0.quarantine.limit = 3
        }
        let endpoint = try #require(try await stack.source.listen())
        for rank in 0..<3 {
            try await stack.startEngine("r\(rank)", at: endpoint, topic: "kv@10.0.0.7:8000@m")
        }
        try await stack.startEngine("good", at: endpoint, topic: "kv@good@m")
        stack.source.update([
            server("a", ranks: ranks, events: nil), server("good", ranks: 1, events: nil, port: 1),
        ])
        return stack
    }

    @Test func ranksUnderOneTopicAreToldApartByTheirBatches() async throws {
        let stack = try await fanIn(ranks: 2)
        // Until the subscription has reached each: the numbers go on at the same pace.
        try await eventually {
            for rank in 0..<2 {
                try await stack.publish(
                    "r\(rank)",
                    storePayload([1, 2], tokens: tokens(of: rank, 0..<8), rank: rank))
            }
            return (0..<2).allSatisfy { stack.matched(tokens(of: $0, 0..<8), on: name($0)) == 2 }
        }
        for step in 2..<4 {
            for rank in 0..<2 {
                try await stack.publish(
                    "r\(rank)",
                    storePayload(
                        [UInt64(step + 1)], parent: UInt64(step),
                        tokens: tokens(of: rank, (4 * step)..<(4 * step + 4)), rank: rank))
            }
        }
        try await eventually {
            (0..<2).allSatisfy { stack.matched(tokens(of: $0, 0..<16), on: name($0)) == 4 }
        }
        for rank in 0..<2 {
            let state = try #require(stack.state(of: name(rank)))
            #expect(state.sequence.restartCount == 0 && state.index.clearedCount == 0)
            #expect(stack.matched(tokens(of: 1 - rank, 0..<16), on: name(rank)) == 0)
        }

        // Rank 1 is another process, whose numbers begin at 0. The old one's are far above, as
        // some of the new ones are lost until the subscription has reached it.
        for _ in 0..<1000 {
            try await stack.publish("r1", storePayload([], tokens: [], rank: 1))
        }
        try await eventually { stack.state(of: "a@dp1")?.sequence.lastSequence ?? 0 > 1000 }
        try await stack.stopEngine("r1")
        let endpoint = try #require(try await stack.source.listen())
        try await stack.startEngine("r1", at: endpoint, topic: "kv@10.0.0.7:8000@m")
        try await eventually {
            try await stack.publish(
                "r1", storePayload([9], tokens: tokens(of: 2, 0..<4), rank: 1))
            return stack.state(of: "a@dp1")?.sequence.restartCount == 1
        }
        #expect(stack.matched(tokens(of: 1, 0..<16), on: "a@dp1") == 0)
        #expect(stack.matched(tokens(of: 0, 0..<16), on: "a") == 4)
        #expect(stack.state(of: "a")?.sequence.restartCount == 0)
        try await stack.finish()
    }

    @Test func ranksThatNobodyDeclaredShowUp() async throws {
        let stack = try await fanIn(ranks: 1)
        try await eventually {
            try await stack.publish(
                "r2", storePayload([1], tokens: tokens(of: 2, 0..<4), rank: 63))
            return stack.matched(tokens(of: 2, 0..<4), on: "a@dp63") == 1
        }
        #expect(stack.source.engines.map(\.name) == ["a", "a@dp63", "good"])
        #expect(stack.index.ranks(of: ["a"])[0].map(\.rank) == [0, 63])
        // Past the bound.
        for rank in [64, Int.max] {
            try await stack.publish(
                "r2", storePayload([1], tokens: tokens(of: 2, 0..<4), rank: rank))
        }
        try await eventually {
            String(decoding: stack.registry.exposition(), as: UTF8.self)
                .contains("\nllm_d_epp_kv_cache_events_unknown_engines_total 2\n")
        }
        #expect(stack.source.engines.count == 3)
        stack.source.update([server("good", ranks: 1, events: nil, port: 1)])
        try await eventually { stack.source.engines.map(\.name) == ["good"] }
        #expect(stack.index.ranks(of: ["a"]) == [[]])
        #expect(stack.index.statistics.endpointCount == 1)
        try await stack.finish()
    }

    /// Where a batch does not even tell its rank, no rank can be trusted.
    @Test func unreadableRanksCountAgainstAll() async throws {
        let stack = try await fanIn(ranks: 2)
        try await eventually {
            try await stack.publish("r0", storePayload([1], tokens: tokens(of: 0, 0..<4)))
            try await stack.publish("good", storePayload([1], tokens: tokens(of: 1, 0..<4)))
            return stack.matched(tokens(of: 0, 0..<4), on: "a") == 1
                && stack.matched(tokens(of: 1, 0..<4), on: "good") == 1
        }
        for _ in 0..<3 { try await stack.publish("r0", [0xc1]) }
        try await eventually {
            stack.state(of: "a")?.quarantineEnd != nil
                && stack.state(of: "a@dp1")?.quarantineEnd != nil
        }
        #expect(stack.matched(tokens(of: 0, 0..<4), on: "a") == 0)
        #expect(stack.matched(tokens(of: 1, 0..<4), on: "good") == 1)
        #expect(
            String(decoding: stack.registry.exposition(), as: UTF8.self)
                .contains("\nllm_d_epp_kv_cache_events_decode_errors_total 3\n"))
        try await stack.finish()
    }

    @Test func ofTwoServersThatWantOneNameTheFirstHasIt() async throws {
        let stack = try Stack()
        let (a, b) = (ipcEndpoint(), ipcEndpoint())
        try await stack.startEngine("r1", at: a + "_dp1", replay: a + "-r_dp1")
        try await stack.startEngine("b", at: b, replay: b + "-r")
        try await stack.publish("r1", storePayload([1], tokens: Array(1...4)))
        try await stack.publish("b", storePayload([1], tokens: Array(21...24)))
        stack.source.update([
            server("a", ranks: 2, events: a, replay: a + "-r"),
            server("a@dp1", ranks: 1, events: b, replay: b + "-r", port: 1),
        ])
        try await eventually { stack.matched(prompt, on: "a@dp1") == 1 }
        #expect(stack.matched(Array(21...24), on: "a@dp1") == 0)
        #expect(stack.source.engines.map(\.name) == ["a", "a@dp1"])
        try await stack.finish()
    }

    private func tokens(of rank: Int, _ range: Range<Int>) -> [UInt32] {
        range.map { UInt32(1000 * rank + $0) }
    }

    private func name(_ rank: Int) -> String { rank == 0 ? "a" : "a@dp\(rank)" }
}
