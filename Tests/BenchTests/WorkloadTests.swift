import Bench
import Foundation
import Testing

@Suite struct WorkloadTests {
    private func request(_ ids: [Int], tokens: Int, at milliseconds: Double = 0) -> TraceRequest {
        TraceRequest(
            timestamp: milliseconds, inputLength: tokens, outputLength: 5, hashIDs: ids)
    }

    @Test func equalIDsGiveEqualTokensAndDistinctOnesDoNot() {
        let workload = Workload(
            Trace(requests: [
                request([1, 2], tokens: 1000), request([1, 3], tokens: 1000),
                request([1, 2], tokens: 700),
            ]))
        let prompts = workload.items.map(\.tokens)
        #expect(prompts.map(\.count) == [1000, 1000, 700])
        #expect(prompts[0][..<512] == prompts[1][..<512])
        #expect(prompts[0][512] != prompts[1][512])
        #expect(prompts[2][...] == prompts[0][..<700])
        #expect(prompts.joined().allSatisfy { $0 < 128_256 })
    }

    @Test func scaleAndSpeedup() {
        let workload = Workload(
            Trace(requests: [
                request([1], tokens: 400, at: 500), request([1, 2], tokens: 600, at: 3500),
            ]), scale: 0.25, speedup: 6)
        #expect(workload.items.map(\.tokens.count) == [100, 150])
        #expect(workload.items.map(\.arrival) == [0, 0.5])
        #expect(workload.items[0].tokens[...] == workload.items[1].tokens[..<100])
    }

    @Test func requestsOfOneTimestampAreSpread() {
        let times: [Double] = [0, 0, 0, 2999, 3001, 9000, 9000]
        let trace = Trace(requests: times.map { request([1], tokens: 9, at: $0) })
        #expect(
            trace.spread(over: 3000).requests.map(\.timestamp)
                == [0, 1000, 2000, 3000, 4500, 9000, 10500])
        #expect(trace.spread(over: 3000).requests.map(\.hashIDs) == trace.requests.map(\.hashIDs))
    }

    @Test func sessionsAreWhatPromptsShareBeyondTemplates() {
        // Block 0 is a template: more than eight others follow it. 30 is none.
        let openings = (0..<9).map { request([0, 10 + $0], tokens: 600) }
        let trace = Trace(
            requests: openings + [
                request([0, 10, 20], tokens: 1200), request([0, 10, 21, 22], tokens: 2000),
                request([0], tokens: 100), request([0], tokens: 100),
                request([30, 31], tokens: 600),
                request([30, 32], tokens: 600),
            ])
        #expect(trace.sessions == Array(0..<9) + [0, 0, 9, 10, 11, 11])
        #expect(Workload(trace).items.map(\.session) == trace.sessions)
    }

    @Test func idealHitRatioCountsFullBlocksAndTheLastTokenIsComputed() {
        // 1024 tokens whole: hits 63 of 64 blocks, as the last token must be computed.
        let repeated = Workload(
            Trace(requests: [request([1, 2], tokens: 1024), request([1, 2], tokens: 1024)]))
        #expect(repeated.idealHitRatio(blockSize: 16) == 1008.0 / 2048)
        // A shared first half.
        let shared = Workload(
            Trace(requests: [request([1, 2], tokens: 1024), request([1, 3], tokens: 1024)]))
        #expect(shared.idealHitRatio(blockSize: 16) == 512.0 / 2048)
        // A block seen before, but behind another prefix, is no hit.
        let shifted = Workload(
            Trace(requests: [request([1, 2], tokens: 1024), request([3, 2], tokens: 1024)]))
        #expect(shifted.idealHitRatio(blockSize: 16) == 0)
    }

    @Test(arguments: SyntheticTrace.allCases)
    func syntheticTracesAreTheSameForTheSameSeed(kind: SyntheticTrace) {
        let trace = kind.trace(count: 200, seed: 7)
        #expect(trace == kind.trace(count: 200, seed: 7))
        #expect(trace != kind.trace(count: 200, seed: 8))
        #expect(trace.requests.count == 200)
        for request in trace.requests {
            #expect(request.hashIDs.count == (request.inputLength + 511) / 512)
        }
        #expect(
            zip(trace.requests, trace.requests.dropFirst()).allSatisfy {
                $0.timestamp <= $1.timestamp
            })
        #expect(Workload(trace, scale: 0.1).idealHitRatio(blockSize: 16) > 0.2)
    }

    private func file(_ text: String) throws -> String {
        let path = NSTemporaryDirectory() + "trace-\(UUID()).jsonl"
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        return path
    }

    @Test func readsTraceFiles() throws {
        let path = try file(
            """
            {"timestamp": 10, "input_length": 600, "output_length": 7, "hash_ids": [4, 5]}
            {"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [9]}
            {"timestamp": 20, "input_length": 5, "output_length": 1, "hash_ids": [9]}
            """)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let trace = try Trace(contentsOf: path, limit: 2)
        #expect(trace.requests.map(\.timestamp) == [0, 10])
        #expect(trace.requests[1].hashIDs == [4, 5])
    }

    @Test(arguments: [
        (#"{"timestamp": 0, "output_length": 7, "hash_ids": [4]}"#, "input_length"),
        (#"{"timestamp": 0, "input_length": 600, "output_length": 7, "hash_ids": [4]}"#, "few"),
        (#"{"timestamp": 0,"#, "JSON"),
        (#"{"timestamp": -1, "input_length": 6, "output_length": 7, "hash_ids": [4]}"#, "neg"),
    ])
    func badLinesAreNamed(line: String, part: String) throws {
        let good = "{\"timestamp\":0,\"input_length\":5,\"output_length\":1,\"hash_ids\":[9]}\n"
        let path = try file(good + line)
        defer { try? FileManager.default.removeItem(atPath: path) }
        let error = #expect(throws: TraceError.self) { try Trace(contentsOf: path) }
        #expect(error?.line == 2)
        #expect(error?.problem.contains(part) == true)
    }
}
