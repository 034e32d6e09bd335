import Core
import Foundation
import Net
import Simulator
import Synchronization
import Testing

/// Engines that fail on purpose.
@Suite(.timeLimit(.minutes(2))) struct FailureInjectionTests {
    private func withEngine(
        _ kinds: [InjectedFailure], percent: Double = 100,
        _ body: (Harness, SimulatorServer) async throws -> Void
    ) async throws {
        let harness = try Harness()
        do {
            let engine = try await harness.start {
                $0.failurePercent = percent
                $0.failureKinds = kinds
            }
            try await body(harness, engine)
        } catch {
            await harness.stop()
            throw error
        }
        await harness.stop()
    }

    private let call: [String: Any] = ["prompt": "a", "max_tokens": 3, "ignore_eos": true]
    private let stream: [String: Any] = [
        "prompt": "a", "max_tokens": 3, "ignore_eos": true, "stream": true,
    ]

    @Test(
        arguments: [
            (.rateLimit, 429, "RateLimitError"), (.invalidAPIKey, 401, "AuthenticationError"),
            (.contextLength, 400, "BadRequestError"), (.serverError, 503, "InternalServerError"),
            (.invalidRequest, 400, "BadRequestError"), (.modelNotFound, 404, "NotFoundError"),
        ] as [(InjectedFailure, Int, String)])
    func properErrors(kind: InjectedFailure, status: Int, type: String) async throws {
        try await withEngine([kind]) { harness, engine in
            for body in [call, stream] {
                let answer = try await harness.post(engine, "/v1/completions", body)
                #expect(answer.status == status)
                #expect(try answer.value("error", "type") as? String == type)
                #expect(try answer.value("error", "code") as? Int == status)
            }
            #expect(
                try await harness.metric(
                    engine, "llmd_sim_injected_failures_total{type=\"\(kind.rawValue)\"}") == 2)
            // Other routes are as ever.
            #expect(try await harness.get(engine, "/v1/models").status == 200)
            #expect(
                try await harness.post(engine, "/tokenize", ["prompt": "a"]).status == 200)
        }
    }

    @Test func closesWithinTheReply() async throws {
        try await withEngine([.closeMidStream]) { harness, engine in
            for body in [call, stream, stream.merging(["max_tokens": 1]) { $1 }] {
                let end = try await BrokenOffClient().send(body, to: engine, harness)
                #expect(end.status == 200)
                #expect(end.byteCount > 20 && end.hasFailed)
            }
            // Nothing of it stays in the engine.
            #expect(
                try await harness.metric(
                    engine,
                    "vllm:num_requests_running{engine=\"0\",model_name=\"tiny-llama\"}") == 0)
        }
    }

    @Test func garbageIsNeitherJSONNorText() async throws {
        try await withEngine([.garbage]) { harness, engine in
            let whole = try await harness.post(engine, "/v1/completions", call)
            #expect(whole.status == 200)
            #expect(throws: (any Error).self) { try whole.json() }
            #expect(String(validating: whole.body, as: UTF8.self) == nil)
            let events = try await harness.post(engine, "/v1/completions", stream)
            #expect(events.headers[first: "content-type"]?.hasPrefix("text/event-stream") == true)
        }
    }

    @Test func neverAnswers() async throws {
        try await withEngine([.neverAnswer]) { harness, engine in
            let client = BrokenOffClient()
            try client.start(call, to: engine, harness)
            let series = "llmd_sim_injected_failures_total{type=\"never_answer\"}"
            let wasTaken = try await harness.wait(engine, series) { $0 == 1 }
            #expect(wasTaken)
            #expect(client.state.status == nil && !client.state.hasFailed)
        }
    }

    @Test func asManyAsAskedForAndTheSameAgain() {
        func draws(_ percent: Double, seed: UInt64) -> [InjectedFailure?] {
            var failures = FailureInjection(
                percent: percent, kinds: [.rateLimit, .serverError], seed: seed)
            return (0..<10_000).map { _ in failures.next() }
        }
        let some = draws(20, seed: 1)
        let counts = [InjectedFailure.rateLimit, .serverError].map { kind in
            some.count { $0 == kind }
        }
        #expect(counts.allSatisfy { (850...1150).contains($0) }, "\(counts)")
        #expect(some == draws(20, seed: 1) && some != draws(20, seed: 2))
        #expect(draws(0, seed: 1).allSatisfy { $0 == nil })
        #expect(draws(100, seed: 1).allSatisfy { $0 != nil })
    }

    @Test func optionsAreChecked() {
        var configuration = SimulatorConfiguration()
        #expect(configuration.failurePercent == 0)
        configuration.failurePercent = 101
        #expect(throws: SimulatorError.self) { try configuration.validate() }
        configuration.failurePercent = 100
        configuration.failureKinds = []
        #expect(throws: SimulatorError.self) { try configuration.validate() }
    }
}

/// Notes how far a reply came.
private final class BrokenOffClient: ClientExchangeDelegate, Sendable {
    struct State {
        var status: Int?
        var byteCount = 0
        var hasFailed = false
        var ended: CheckedContinuation<Void, Never>?
    }

    private let shared = Mutex(State())

    var state: State { shared.withLock { $0 } }

    /// Sends a completion and waits for its end, good or bad.
    func send(
        _ body: [String: Any], to engine: SimulatorServer, _ harness: Harness
    ) async throws -> State {
        let bytes = try Array(JSONSerialization.data(withJSONObject: body))
        await withCheckedContinuation { continuation in
            shared.withLock { $0.ended = continuation }
            start(bytes, engine.address, harness)
        }
        return state
    }

    /// Sends a completion.
    func start(_ body: [String: Any], to engine: SimulatorServer, _ harness: Harness) throws {
        start(
            try Array(JSONSerialization.data(withJSONObject: body)), engine.address, harness)
    }

    private func start(_ bytes: [UInt8], _ address: SocketAddress, _ harness: Harness) {
        let client = harness.client
        harness.group.loops[0].execute {
            _ = client.start(
                HTTPRequestHead(method: "POST", target: "/v1/completions"), to: address,
                body: .bytes(bytes), delegate: self)
        }
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        shared.withLock { $0.status = head.status }
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        shared.withLock { $0.byteCount += body.count }
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) { end(false) }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) { end(true) }

    private func end(_ hasFailed: Bool) {
        let ended = shared.withLock { state in
            state.hasFailed = hasFailed
            defer { state.ended = nil }
            return state.ended
        }
        ended?.resume()
    }
}
