import CZeroMQ
import Core
public import Net

/// Asks an engine to send its batches again, from one sequence number on.
///
/// One object per request, with a socket of its own, so that late replies to an older request
/// cannot be taken for its own. Lives on its event loop.
public final class KVReplayClient {
    /// What happened; `finished` and `failed` come once and last. Pointers are valid during the
    /// callback only.
    public enum Event {
        /// A batch came; engines before vLLM 0.26 do not send its topic.
        case batch(
            topic: UnsafeRawBufferPointer?, sequence: UInt64, payload: UnsafeRawBufferPointer)
        /// The engine has sent all that it had.
        case finished
        /// The replay was cut short.
        case failed(MessagingError)
    }

    private let endpoint: String
    private let idleTimeout: Duration
    private let loop: EventLoop
    private let handler: (Event) -> Void
    private var reader: SocketReader?
    private var timer: Net.Timer?
    private var lastReply = MonotonicTime.now

    /// Sends the request. Call it on `loop`.
    ///
    /// - Parameters:
    ///   - endpoint: the engine's replay endpoint.
    ///   - start: the first sequence number wanted.
    ///   - idleTimeout: how long to wait for the next reply before giving up.
    ///   - maximumMessageBytes: a longer reply ends the connection.
    public init(
        context: MessagingContext, on loop: EventLoop, endpoint: String, from start: UInt64,
        idleTimeout: Duration = .seconds(2), maximumMessageBytes: Int = 64 << 20,
        handler: @escaping (Event) -> Void
    ) throws(MessagingError) {
        loop.preconditionInLoop()
        self.endpoint = endpoint
        self.idleTimeout = idleTimeout
        self.loop = loop
        self.handler = handler
        let socket = try ZMQSocket(.dealer, in: context)
        socket.set(ZMQ_RCVHWM, 100_000)
        socket.setMaximumMessageBytes(maximumMessageBytes)
        try socket.connect(to: endpoint)
        reader = try SocketReader(socket, on: loop) { [weak self] in self?.received($0) }
        socket.send([], more: true)
        socket.send(KVEventFrames.encode(start), more: false)
        watch(for: idleTimeout)
    }

    deinit { cancel() }

    /// Ends the request; no callback comes after it. May be called from the handler.
    public func cancel() {
        timer?.cancel()
        timer = nil
        reader?.close()
        reader = nil
    }

    private func received(_ message: ZMQMessage) {
        lastReply = .now
        switch KVReplayReply(message) {
        case .batch(let topic, let sequence, let payload)?:
            handler(.batch(topic: topic, sequence: sequence, payload: payload))
        case .end?:
            end(.finished)
        case nil:
            end(.failed(.malformedReply(endpoint: endpoint, frameCount: message.count)))
        }
    }

    /// Looks again when the timeout may have passed: a reply costs no timer call.
    private func watch(for time: Duration) {
        timer = loop.schedule(after: time) { [weak self] in
            guard let self else { return }
            let idle = MonotonicTime.now - lastReply
            if idle < idleTimeout {
                watch(for: idleTimeout - idle)
            } else {
                end(
                    .failed(
                        .replayTimedOut(endpoint: endpoint, seconds: idleTimeout.seconds)))
            }
        }
    }

    private func end(_ event: Event) {
        guard reader != nil else { return }
        cancel()
        handler(event)
    }
}
