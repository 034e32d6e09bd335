import CZeroMQ
public import Net

/// Publishes KV-event batches as vLLM does: live on a PUB socket, and again on request from a
/// buffer of the last batches.
///
/// Lives on its event loop: made, used and closed there. Never blocks: where a subscriber is
/// slower than ``Configuration/highWaterCount`` batches allow, it loses batches and can ask for
/// them again.
public final class KVEventPublisher {
    /// Where and how to publish. The defaults are vLLM's.
    public struct Configuration: Sendable {
        /// A ZMQ endpoint. The socket binds where it contains `*` or `::` or begins with `ipc` or
        /// `inproc`; otherwise it connects to a subscriber that is bound there (fan-in).
        public var endpoint = "tcp://*:5557"
        /// Where replay requests are answered, if they are; always bound.
        public var replayEndpoint: String?
        /// The topic of every batch; `kv@<address>@<model>` by llm-d's convention.
        public var topic = ""
        /// How many batches can be replayed.
        public var bufferedBatchCount = 10_000
        /// Bytes of batches that can be replayed; vLLM has no such limit.
        public var bufferedByteCount = 64 << 20
        /// How many batches wait for one slow subscriber before it loses some.
        public var highWaterCount = 100_000

        /// vLLM's defaults.
        public init() {}

        var binds: Bool {
            endpoint.contains("*") || endpoint.contains("::") || endpoint.hasPrefix("ipc://")
                || endpoint.hasPrefix("inproc://")
        }
    }

    /// The bound endpoint with its real port, or the one connected to.
    public let endpoint: String
    /// The bound replay endpoint with its real port, if there is one.
    public let replayEndpoint: String?
    /// The sequence number of the next batch; the first is 0.
    public var nextSequence: UInt64 { buffer.next }

    private let socket: ZMQSocket
    private let topic: [UInt8]
    private let buffer: KVEventBuffer
    private let responder: KVReplayResponder?

    /// Opens the sockets. Call it on `loop`.
    public init(
        context: MessagingContext, on loop: EventLoop, configuration: Configuration
    ) throws(MessagingError) {
        loop.preconditionInLoop()
        topic = Array(configuration.topic.utf8)
        buffer = KVEventBuffer(
            capacity: configuration.bufferedBatchCount,
            byteCapacity: configuration.bufferedByteCount)
        socket = try ZMQSocket(.pub, in: context)
        socket.set(ZMQ_SNDHWM, Int32(clamping: configuration.highWaterCount))
        if configuration.binds {
            try socket.bind(to: configuration.endpoint)
            endpoint = socket.lastEndpoint
        } else {
            try socket.connect(to: configuration.endpoint)
            endpoint = configuration.endpoint
        }
        guard let replay = configuration.replayEndpoint else {
            responder = nil
            replayEndpoint = nil
            return
        }
        let responder = try KVReplayResponder(
            context: context, on: loop, endpoint: replay, topic: topic, buffer: buffer)
        self.responder = responder
        replayEndpoint = responder.endpoint
    }

    /// Sends a MessagePack-encoded batch and keeps it for replays.
    ///
    /// - Returns: its sequence number.
    @discardableResult
    public func publish(_ payload: [UInt8]) -> UInt64 {
        let sequence = buffer.append(payload)
        socket.send(topic, more: true)
        socket.send(KVEventFrames.encode(sequence), more: true)
        socket.send(payload, more: false)
        return sequence
    }

    /// Closes the sockets; batches not yet sent are dropped.
    public func close() {
        responder?.close()
        socket.close()
    }
}

/// The last batches by sequence number.
final class KVEventBuffer {
    private let capacity: Int
    private let byteCapacity: Int
    /// A ring: a batch lies at its sequence number modulo the capacity.
    private var batches: [[UInt8]] = []
    private var byteCount = 0
    /// The sequence number of the oldest batch that is kept.
    private(set) var first: UInt64 = 0
    /// The sequence number of the next batch.
    private(set) var next: UInt64 = 0

    init(capacity: Int, byteCapacity: Int) {
        self.capacity = max(capacity, 1)
        self.byteCapacity = byteCapacity
    }

    /// Keeps a batch, and as many of those before it as there is room for.
    func append(_ payload: [UInt8]) -> UInt64 {
        byteCount += payload.count
        while first < next, byteCount > byteCapacity || next - first == UInt64(capacity) {
            byteCount -= self[first].count
            self[first] = []
            first += 1
        }
        if batches.count < capacity { batches.append([]) }
        self[next] = payload
        defer { next += 1 }
        return next
    }

    /// The batch of a sequence number in `first..<next`.
    private(set) subscript(sequence: UInt64) -> [UInt8] {
        get { batches[Int(sequence % UInt64(capacity))] }
        set { batches[Int(sequence % UInt64(capacity))] = newValue }
    }

    var replayHighWaterCount: Int { 2 * (capacity + 1) }
}
