import Core
import Dispatch
import Net
import PerfSupport
import Synchronization

/// A client that keeps requests in flight on one loop, each on a connection of its own.
final class Load: Sendable {
    /// What every request is, how long the body of a right answer, how many are in flight.
    struct Shape: Sendable {
        var path: String
        var body: [UInt8]
        var answerBytes: Int
        var concurrentCount: Int
    }

    private struct State {
        var leftToStart: Int
        var leftToEnd: Int
        var problem: String?
        var latencies: [Duration] = []
    }

    private let client: HTTPClient
    private let shape: Shape
    private let port: UInt16
    private let state: Mutex<State>
    private let done = DispatchSemaphore(value: 0)

    private init(_ shape: Shape, count: Int, port: UInt16, through client: HTTPClient) {
        self.client = client
        self.shape = shape
        self.port = port
        state = Mutex(State(leftToStart: count, leftToEnd: count))
    }

    /// Sends `count` requests and waits for all answers, a minute at most. Returns the median of the
    /// times from a request to the end of its answer.
    @discardableResult
    static func run(
        _ shape: Shape, count: Int, to port: UInt16, through client: HTTPClient
    ) throws -> Duration {
        let load = Load(shape, count: count, port: port, through: client)
        client.loop.execute {
            for _ in 0..<shape.concurrentCount { load.startOne() }
        }
        guard load.done.wait(timeout: .now() + .seconds(60)) == .success else {
            throw PerfError("port \(port): nothing came back in time")
        }
        if let problem = load.state.withLock(\.problem) {
            throw PerfError("port \(port): \(problem)")
        }
        return load.state.withLock { $0.latencies.sorted()[count / 2] }
    }

    fileprivate func startOne() {
        let mayStart = state.withLock { state in
            guard state.leftToStart > 0, state.problem == nil else { return false }
            state.leftToStart -= 1
            return true
        }
        guard mayStart else { return }
        let head = HTTPRequestHead(
            method: "POST", target: shape.path,
            headers: ["content-type": "application/json"])
        client.start(
            head, to: SocketAddress(host: "127.0.0.1", port: port), body: .bytes(shape.body),
            delegate: Answer(of: self))
    }

    fileprivate func ended(_ answer: Answer, _ error: NetError?) {
        let (status, byteCount) = (answer.status, answer.byteCount)
        let isOver = state.withLock { state in
            state.latencies.append(MonotonicTime.now - answer.startedAt)
            state.leftToEnd -= 1
            if let error {
                state.problem = "\(error)"
            } else if status != 200 || byteCount != shape.answerBytes {
                state.problem = "status \(status) with \(byteCount) bytes"
            }
            return state.leftToEnd == 0 || state.problem != nil
        }
        if isOver { done.signal() } else { startOne() }
    }
}

private final class Answer: ClientExchangeDelegate {
    let startedAt = MonotonicTime.now
    private(set) var status = 0
    private(set) var byteCount = 0
    private let load: Load

    init(of load: Load) {
        self.load = load
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        status = head.status
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        byteCount += body.count
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        load.ended(self, nil)
    }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        load.ended(self, error)
    }
}
