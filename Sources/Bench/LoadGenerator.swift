public import Core
public import Net
import Scan

/// What became of one request.
public struct Outcome: Sendable {
    /// From sending to the first token; nil if none came.
    public var timeToFirstToken: Duration?
    /// From sending to the end.
    public var duration: Duration
    /// Prompt tokens by the server's count.
    public var promptTokens = 0
    /// Generated tokens by the server's count.
    public var completionTokens = 0
    /// What went wrong, if anything did.
    public var failure: String?
    /// The status of the response; nil if none came.
    public var status: Int?
    /// Why the router dropped the request, if it says so: `x-llm-d-request-dropped-reason`.
    public var dropReason: String?
    /// Whether the server said how the request ended: a response that is complete, or a stream
    /// that says what went wrong.
    public var isAnswered = false
    /// From when the request was due to when it was sent.
    public var lateness = Duration.zero

    /// Makes an outcome.
    package init(
        timeToFirstToken: Duration?, duration: Duration, promptTokens: Int = 0,
        completionTokens: Int = 0, failure: String? = nil, status: Int? = nil,
        dropReason: String? = nil, isAnswered: Bool = false, lateness: Duration = .zero
    ) {
        self.timeToFirstToken = timeToFirstToken
        self.duration = duration
        self.promptTokens = promptTokens
        self.completionTokens = completionTokens
        self.failure = failure
        self.status = status
        self.dropReason = dropReason
        self.isAnswered = isAnswered
        self.lateness = lateness
    }
}

/// Sends a workload to an OpenAI server as streamed completions, in open loop: each request
/// starts at its arrival time, however many are still running.
public actor LoadGenerator {
    private let loop: EventLoop
    private let client: HTTPClient
    private let servers: [SocketAddress]
    private let model: String
    private var workload = Workload(Trace(requests: []))
    private var startedAt = MonotonicTime.now
    private var nextItem = 0
    private var outcomes: [Outcome?] = []
    private var pendingCount = 0
    private var failureCount = 0
    private var finished: CheckedContinuation<Void, Never>?

    /// The generator runs on its loop.
    public nonisolated var unownedExecutor: UnownedSerialExecutor {
        loop.asUnownedSerialExecutor()
    }

    /// Makes a generator for servers at one or more addresses, which take turns.
    public init(servers: [SocketAddress], model: String, on loop: EventLoop) {
        precondition(!servers.isEmpty, "requests go to a server")
        self.loop = loop
        self.servers = servers
        self.model = model
        var configuration = HTTPClientConfiguration()
        configuration.maximumConnectionsPerHost = 10_000
        configuration.maximumIdlePerHost = 10_000
        configuration.responseHeadTimeout = .seconds(300)
        configuration.idleTimeout = .seconds(120)
        client = HTTPClient(on: loop, configuration: configuration)
    }

    /// How far a replay has come.
    public struct Progress: Sendable {
        /// Requests that ended.
        public var done: Int
        /// Requests that run.
        public var running: Int
        /// Requests that failed.
        public var failed: Int
        /// All requests.
        public var total: Int
    }

    /// Where the replay stands now.
    public var progress: Progress {
        Progress(
            done: nextItem - pendingCount, running: pendingCount, failed: failureCount,
            total: workload.items.count)
    }

    /// Replays a workload and waits for the last answer.
    ///
    /// - Returns: The outcomes in the order of the workload, and the time from the first sending
    ///   to the last end.
    public func run(_ workload: Workload) async -> (outcomes: [Outcome], duration: Duration) {
        self.workload = workload
        outcomes = Array(repeating: nil, count: workload.items.count)
        startedAt = .now
        guard !workload.items.isEmpty else { return ([], .zero) }
        await withCheckedContinuation { continuation in
            finished = continuation
            sendDue()
        }
        return (outcomes.compactMap(\.self), .now - startedAt)
    }

    /// Closes the connections.
    public func shutdown() {
        client.shutdown()
    }

    private func sendDue() {
        let now = (.now - startedAt).seconds
        while nextItem < workload.items.count, workload.items[nextItem].arrival <= now {
            send(nextItem)
            nextItem += 1
        }
        guard nextItem < workload.items.count else { return }
        loop.schedule(after: Duration(seconds: workload.items[nextItem].arrival - now)) {
            self.assumeIsolated { $0.sendDue() }
        }
    }

    private func send(_ index: Int) {
        pendingCount += 1
        let item = workload.items[index]
        let lateness = (.now - startedAt) - Duration(seconds: item.arrival)
        send(item, to: servers[index % servers.count]) { generator, outcome in
            var outcome = outcome
            outcome.lateness = lateness
            generator.ended(index, outcome)
        }
    }

    private func send(
        _ item: Workload.Item, to server: SocketAddress,
        then end: @escaping @Sendable (isolated LoadGenerator, Outcome) -> Void
    ) {
        var head = HTTPRequestHead(method: "POST", target: "/v1/completions")
        head.headers.append("content-type", "application/json")
        head.headers.append("x-session-id", "session-\(item.session)")
        if let objective = item.objective {
            head.headers.append("x-llm-d-inference-objective", objective)
        }
        let running = RunningRequest { [self] outcome in
            assumeIsolated { end($0, outcome) }
        }
        _ = client.start(head, to: server, body: .bytes(body(of: item)), delegate: running)
    }

    private func body(of item: Workload.Item) -> [UInt8] {
        var json = JSONWriter(capacity: item.tokens.count * 7 + 256)
        json.beginObject()
        json.member("model", model)
        json.key("prompt")
        json.beginArray()
        for token in item.tokens { json.int(Int(token)) }
        json.endArray()
        json.member("max_tokens", item.outputLength)
        json.member("ignore_eos", true)
        json.member("stream", true)
        json.key("stream_options")
        json.beginObject()
        json.member("include_usage", true)
        json.endObject()
        json.endObject()
        return json.bytes
    }

    // MARK: - Saturation

    private struct Saturation {
        var objective: String
        var promptTokens: Int
        var outputTokens: Int
        var random: SplitMix64
        var sentCount = 0
        var endsAt: MonotonicTime
        var countsFrom: MonotonicTime
        var completedCount = 0
    }

    private var saturation: Saturation?

    /// A lane that was refused tries again after this time.
    private static let refusalDelay = Duration.milliseconds(100)

    /// Keeps `concurrency` requests at the servers for so many seconds; none has a prefix in common
    /// with another. Requests that run at the end are left to ``shutdown()``.
    ///
    /// - Returns: How many were served per second in the second half of that time.
    public func saturate(
        concurrency: Int, seconds: Double, objective: String, promptTokens: Int,
        outputTokens: Int, seed: UInt64
    ) async -> Double {
        let now = MonotonicTime.now
        saturation = Saturation(
            objective: objective, promptTokens: promptTokens, outputTokens: outputTokens,
            random: SplitMix64(state: seed), endsAt: now + Duration(seconds: seconds),
            countsFrom: now + Duration(seconds: seconds / 2))
        for _ in 0..<concurrency { sendNext() }
        await withCheckedContinuation { continuation in
            loop.schedule(after: Duration(seconds: seconds)) { continuation.resume() }
        }
        guard let ended = saturation.take() else { return 0 }
        return Double(ended.completedCount) / (.now - ended.countsFrom).seconds
    }

    private func sendNext() {
        guard var saturation, .now < saturation.endsAt else { return }
        let item = Workload.Item(
            arrival: 0, tokens: saturation.random.prompt(length: saturation.promptTokens),
            outputLength: saturation.outputTokens, session: saturation.sentCount,
            objective: saturation.objective)
        saturation.sentCount += 1
        self.saturation = saturation
        send(item, to: servers[saturation.sentCount % servers.count]) { generator, outcome in
            generator.saturationEnded(outcome)
        }
    }

    private func saturationEnded(_ outcome: Outcome) {
        guard outcome.failure == nil else {
            loop.schedule(after: Self.refusalDelay) { self.assumeIsolated { $0.sendNext() } }
            return
        }
        if let saturation, .now >= saturation.countsFrom {
            self.saturation?.completedCount += 1
        }
        sendNext()
    }

    private func ended(_ index: Int, _ outcome: Outcome) {
        outcomes[index] = outcome
        pendingCount -= 1
        if outcome.failure != nil { failureCount += 1 }
        if pendingCount == 0, nextItem == workload.items.count {
            finished?.resume()
            finished = nil
        }
    }
}

/// A request on its way. Held by its exchange; lives on the loop.
private final class RunningRequest: ClientExchangeDelegate {
    private let sentAt = MonotonicTime.now
    private let end: (Outcome) -> Void
    private var status: Int?
    private var dropReason: String?
    private var reader = StreamReader()
    private var errorBody: [UInt8] = []

    init(end: @escaping (Outcome) -> Void) {
        self.end = end
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        status = head.status
        dropReason = head.headers[first: "x-llm-d-request-dropped-reason"]
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        if status == 200 {
            reader.feed(body, now: .now)
        } else if errorBody.count < 4096 {
            errorBody.append(contentsOf: body)
        }
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        if status != 200 {
            finish(
                failure: "status \(status ?? 0): \(String(decoding: errorBody, as: UTF8.self))",
                isAnswered: true)
        } else if let failure = reader.failure {
            finish(failure: failure, isAnswered: true)
        } else if !reader.isDone {
            finish(failure: "the stream ended without [DONE]", isAnswered: false)
        } else {
            finish(failure: nil, isAnswered: true)
        }
    }

    func exchangeWritable(_ exchange: ClientExchange) {}

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        finish(failure: "\(error)", isAnswered: reader.failure != nil)
    }

    private func finish(failure: String?, isAnswered: Bool) {
        end(
            Outcome(
                timeToFirstToken: reader.firstTokenAt.map { $0 - sentAt },
                duration: .now - sentAt, promptTokens: reader.promptTokens,
                completionTokens: reader.completionTokens, failure: failure, status: status,
                dropReason: dropReason, isAnswered: isAnswered))
    }
}
