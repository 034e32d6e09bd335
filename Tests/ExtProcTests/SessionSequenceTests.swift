import Core
import ExtProc
import FlowControl
import ModelServers
import RequestPipeline
import Testing

/// Sessions under messages in any order, some of them damaged, with answers and decisions that come
/// at any time, side by side at engines that take few requests: whatever a data plane does, it gets
/// messages that it understands, and at the end nobody waits and nothing is in flight.
@Suite struct SessionSequenceTests {
    @Test(arguments: 0..<8)
    func anySequenceLeavesNothingBehind(run: Int) throws {
        let seed = UInt64.random(in: 0...UInt64.max)
        print("seed \(seed)")
        var random = SplitMix64(state: seed)
        var flow = FlowControlConfiguration()
        var detector = ConcurrencyDetector()
        detector.maxConcurrency = 2
        flow.detector = detector
        flow.enableEviction = true
        let fixture = try Fixture(
            engines: 2,
            plugins: run % 2 == 0
                ? "{type: first-picker}" : "{type: first-picker}, {type: token-reader}",
            flow: run % 4 < 2 ? nil : flow)
        fixture.pool.setRules(
            TrafficRules(
                objectives: (-1...1).map { InferenceObjective(name: "\($0)", priority: $0) },
                rewrites: [
                    ModelRewrite(
                        name: "r", createdAt: 0,
                        rules: [.init(models: ["old"], targets: [.init(model: "m", weight: nil)])])
                ]))
        var routedCount = 0
        for _ in 0..<300 {
            var streams = (0..<4).map { _ in Stream(fixture) }
            for _ in 0..<40 {
                let index = Int.random(in: 0..<streams.count, using: &random)
                do {
                    try streams[index].step(&random)
                } catch {
                    Issue.record("seed \(seed): \(error)")
                    return
                }
            }
            routedCount += streams.count { $0.wasRouted }
            for stream in streams { stream.conversation.session.closed() }
            #expect(fixture.inFlightCount == 0, "seed \(seed)")
            #expect(
                fixture.pool.snapshot.members.allSatisfy { $0.prefillTokensInFlight == 0 },
                "seed \(seed)")
        }
        // The steps are chosen so that many requests get through.
        #expect(routedCount > 100, "seed \(seed)")
        // Nobody is left in the queue: the next one has its turn at once.
        let last = Conversation(fixture)
        var responses = try last.post()
        if last.question != nil { responses = try last.tokenized(.success([1, 2])) }
        #expect(responses.count == 2, "seed \(seed)")
        last.session.closed()
    }
}

/// A stream as a data plane that obeys no order drives it, and what it must get.
private struct Stream {
    /// What no data plane would understand.
    struct Violation: Error {
        var text: String
    }

    let conversation: Conversation
    private(set) var wasRouted = false
    private var sentHeaders = false
    private var sentEnd = false
    private var hasEnded = false
    private var answeredResponseHeaders = false

    init(_ fixture: Fixture) {
        conversation = Conversation(fixture)
    }

    mutating func step(_ random: inout SplitMix64) throws {
        guard !hasEnded else { return }
        if conversation.question != nil, Bool.random(using: &random) {
            return try check(
                try conversation.tokenized(
                    Bool.random(using: &random)
                        ? .success([1, 2, 3]) : .failure(.badGateway("none"))))
        }
        if conversation.session.unheardTicket != nil, Bool.random(using: &random) {
            return try check(try conversation.signalled())
        }
        var message = message(&random)
        if Int.random(in: 0..<20, using: &random) == 0, !message.isEmpty {
            message[Int.random(in: message.indices, using: &random)] ^=
                1 << UInt8.random(in: 0..<8, using: &random)
        }
        try check(try conversation.send(message))
    }

    /// Nearly always what comes next, else anything.
    private mutating func message(_ random: inout SplitMix64) -> [UInt8] {
        let goesOn = Int.random(in: 0..<8, using: &random) > 0
        if goesOn, !sentHeaders {
            sentHeaders = true
            return Request.requestHeaders(
                completion + [
                    ("x-llm-d-inference-objective", "\(Int.random(in: -1...1, using: &random))")
                ])
        }
        if goesOn, !sentEnd {
            sentEnd = true
            let model = Bool.random(using: &random) ? "m" : "old"
            return Request.requestBody(#"{"model":"\#(model)","prompt":[1,2]}"#.utf8, end: true)
        }
        switch Int.random(in: 0..<7, using: &random) {
        case 0: return Request.requestHeaders(completion, end: Bool.random(using: &random))
        case 1: return Request.requestBody("{\"model\":".utf8, end: Bool.random(using: &random))
        case 2: return Request.requestTrailers
        case 3: return Request.responseHeaders([(":status", "200")])
        case 4: return Request.responseBody(#"{"model":"m"}"#, end: Bool.random(using: &random))
        case 5: return Request.responseTrailers
        default: return Request.responseHeaders([(":status", "503")], end: true)
        }
    }

    private mutating func check(_ responses: [Response]) throws {
        for response in responses {
            guard !hasEnded else { throw Violation(text: "\(response) after the end") }
            switch response {
            case .headers(.request, _, _, let destination):
                guard !wasRouted, destination != nil else {
                    throw Violation(text: "a second decision, or one for nobody")
                }
                wasRouted = true
            case .body(.request, _, _), .trailers(.request):
                guard wasRouted else { throw Violation(text: "a body before the decision") }
            case .headers(.response, _, _, _):
                guard !answeredResponseHeaders else { throw Violation(text: "a second head") }
                answeredResponseHeaders = true
            case .body(.response, _, _), .trailers(.response):
                guard answeredResponseHeaders else { throw Violation(text: "a body without head") }
            case .immediate(let status, _, _):
                guard status >= 400 else { throw Violation(text: "an error of \(status)") }
                hasEnded = true
            }
        }
        if conversation.status != nil { hasEnded = true }
    }
}
