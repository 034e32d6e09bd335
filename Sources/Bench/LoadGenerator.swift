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
        var head = HTTPRequestHead(method: "POST", target: "/v1/completions")
        head.headers.append("content-type", "application/json")
        head.headers.append("x-session-id", "session-\(workload.items[index].session)")
        let running = RunningRequest { [self] outcome in
            assumeIsolated { $0.ended(index, outcome) }
        }
        _ = client.start(
            head, to: servers[index % servers.count], body: .bytes(body(of: workload.items[index])),
            delegate: running)
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
    private var status = 0
    private var reader = StreamReader()
    private var errorBody: [UInt8] = []

    init(end: @escaping (Outcome) -> Void) {
        self.end = end
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        status = head.status
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
            finish(failure: "status \(status): \(String(decoding: errorBody, as: UTF8.self))")
        } else if let failure = reader.failure {
            finish(failure: failure)
        } else if !reader.isDone {
            finish(failure: "the stream ended without [DONE]")
        } else {
            finish(failure: nil)
        }
    }

    func exchangeWritable(_ exchange: ClientExchange) {}

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        finish(failure: "\(error)")
    }

    private func finish(failure: String?) {
        end(
            Outcome(
                timeToFirstToken: reader.firstTokenAt.map { $0 - sentAt },
                duration: .now - sentAt, promptTokens: reader.promptTokens,
                completionTokens: reader.completionTokens, failure: failure))
    }
}
