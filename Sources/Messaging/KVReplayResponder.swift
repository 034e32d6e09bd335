import CZeroMQ
import Net

/// Answers replay requests, `"", start sequence`, on a ROUTER socket in the framing of vLLM 0.27
/// and later.
final class KVReplayResponder {
    private struct Replay {
        let identity: [UInt8]
        var next: UInt64
        /// Past the last batch that existed when the request came.
        let end: UInt64
    }

    /// Replays being answered; a request beyond them is ignored and times out at its sender.
    private static let maximumReplayCount = 16
    /// Batches sent before other work of the loop gets its turn.
    private static let burstCount = 256

    let endpoint: String
    private let topic: [UInt8]
    private let buffer: KVEventBuffer
    private let loop: EventLoop
    private let socket: ZMQSocket
    private var reader: SocketReader?
    private var replays: [Replay] = []
    private var turn: Net.Timer?

    init(
        context: MessagingContext, on loop: EventLoop, endpoint: String, topic: [UInt8],
        buffer: KVEventBuffer
    ) throws(MessagingError) {
        self.topic = topic
        self.buffer = buffer
        self.loop = loop
        socket = try ZMQSocket(.router, in: context)
        // A ROUTER drops what does not fit: it must hold the longest replay.
        socket.set(ZMQ_SNDHWM, Int32(clamping: buffer.replayHighWaterCount))
        socket.setMaximumMessageBytes(64)
        try socket.bind(to: endpoint)
        self.endpoint = socket.lastEndpoint
        reader = try SocketReader(socket, on: loop) { [weak self] message in
            self?.received(message)
        }
    }

    func close() {
        turn?.cancel()
        reader?.close()
    }

    private func received(_ message: ZMQMessage) {
        guard message.count == 3, message[1].isEmpty,
            let start = KVEventFrames.decode(message[2]),
            replays.count < Self.maximumReplayCount
        else { return }
        replays.append(
            Replay(
                identity: Array(message[0]), next: max(start, buffer.first), end: buffer.next))
        if replays.count == 1 { takeTurn() }
    }

    private func takeTurn() {
        turn = loop.schedule(after: .zero) { [weak self] in self?.sendBurst() }
    }

    private func sendBurst() {
        var replay = replays.removeFirst()
        // Batches that the buffer dropped since the last burst are gone: the reader sees the gap.
        replay.next = max(replay.next, buffer.first)
        var left = Self.burstCount
        while replay.next < replay.end, left > 0 {
            send(to: replay.identity, topic, replay.next, buffer[replay.next])
            replay.next += 1
            left -= 1
        }
        if replay.next < replay.end {
            replays.append(replay)
        } else {
            send(to: replay.identity, [], KVEventFrames.endOfReplay, [])
        }
        if !replays.isEmpty { takeTurn() }
        reader?.readSoon()
    }

    private func send(
        to identity: [UInt8], _ topic: [UInt8], _ sequence: UInt64, _ payload: [UInt8]
    ) {
        socket.send(identity, more: true)
        socket.send([], more: true)
        socket.send(topic, more: true)
        socket.send(KVEventFrames.encode(sequence), more: true)
        socket.send(payload, more: false)
    }
}
