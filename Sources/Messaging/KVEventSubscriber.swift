import CZeroMQ
public import Net

/// Receives the KV-event batches of one engine, or of all engines that connect to it.
///
/// Lives on its event loop: made, called back and closed there. A lost connection is made again in
/// the background, after 100 ms and then ever more slowly up to 5 s.
public final class KVEventSubscriber {
    /// Which side waits for the other.
    public enum Mode: Sendable {
        /// The engine is bound to this endpoint.
        case connect(String)
        /// Engines connect to this endpoint (fan-in).
        case bind(String)
    }

    /// What happened. Pointers are valid during the callback only.
    public enum Event {
        /// A batch came.
        case batch(
            topic: UnsafeRawBufferPointer, sequence: UInt64, payload: UnsafeRawBufferPointer)
        /// A connection is up: batches sent from now on arrive.
        case connected
        /// A connection was lost: batches sent meanwhile are lost.
        case disconnected
        /// A message came that is not topic, sequence and payload.
        case malformed(frameCount: Int)
    }

    /// What to receive, and how much of it.
    public struct Configuration: Sendable {
        /// Only topics that begin so; the empty prefix takes all.
        public var topicPrefix = ""
        /// How many batches wait here before more are dropped.
        public var highWaterCount = 100_000
        /// A longer message ends the connection.
        public var maximumMessageBytes = 64 << 20

        /// Takes every topic.
        public init() {}
    }

    /// The endpoint with its real port where it was bound to port 0.
    public let endpoint: String

    private let socket: ZMQSocket
    private let handler: (Event) -> Void
    private var batches: SocketReader?
    private var connections: SocketReader?

    /// Opens the socket. Call it on `loop`.
    public init(
        context: MessagingContext, on loop: EventLoop, mode: Mode,
        configuration: Configuration = Configuration(), handler: @escaping (Event) -> Void
    ) throws(MessagingError) {
        loop.preconditionInLoop()
        self.handler = handler
        socket = try ZMQSocket(.sub, in: context)
        socket.set(ZMQ_RCVHWM, Int32(clamping: configuration.highWaterCount))
        socket.set(ZMQ_RECONNECT_IVL, 100)
        socket.set(ZMQ_RECONNECT_IVL_MAX, 5000)
        // A machine that vanished sends no FIN: without heartbeats its loss would go unseen.
        socket.set(ZMQ_HEARTBEAT_IVL, 5000)
        socket.set(ZMQ_HEARTBEAT_TIMEOUT, 15000)
        socket.setMaximumMessageBytes(configuration.maximumMessageBytes)
        socket.subscribe(toTopicsWithPrefix: configuration.topicPrefix)
        let monitor = try socket.monitorConnections()
        switch mode {
        case .connect(let remote):
            try socket.connect(to: remote)
            endpoint = remote
        case .bind(let local):
            try socket.bind(to: local)
            endpoint = socket.lastEndpoint
        }
        batches = try SocketReader(socket, on: loop) { [weak self] in self?.received($0) }
        connections = try SocketReader(monitor, on: loop) { [weak self] in
            self?.connectionChanged($0)
        }
    }

    deinit { close() }

    /// Closes the socket; no callback comes after it. May be called from the handler.
    public func close() {
        connections?.close()
        batches?.close()
    }

    private func received(_ message: ZMQMessage) {
        guard message.count == 3, let sequence = KVEventFrames.decode(message[1]) else {
            handler(.malformed(frameCount: message.count))
            return
        }
        handler(.batch(topic: message[0], sequence: sequence, payload: message[2]))
    }

    /// The first frame of a monitor's message: event u16, value u32, in the host's byte order
    /// (zmq_socket_monitor(3)).
    private func connectionChanged(_ message: ZMQMessage) {
        let event = message[0].loadUnaligned(as: UInt16.self)
        handler(Int32(event) == ZMQ_EVENT_DISCONNECTED ? .disconnected : .connected)
    }
}
