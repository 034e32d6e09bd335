import CZeroMQ
package import Net

/// Delivers a socket's messages on an event loop.
///
/// The file of a ZMQ socket is edge-triggered in effect: every call on the socket may eat the edge.
/// So messages are read until none is left, at the start, at every edge, and after every send.
package final class SocketReader {
    /// Messages read before other work of the loop gets its turn.
    private static let burstCount = 256

    package let socket: ZMQSocket
    private let loop: EventLoop
    private let handler: (ZMQMessage) -> Void
    private let message = ZMQMessage()
    private var watcher: FileWatcher?
    private var continuation: Net.Timer?
    private var isReading = false

    package init(
        _ socket: ZMQSocket, on loop: EventLoop, handler: @escaping (ZMQMessage) -> Void
    ) throws(MessagingError) {
        self.socket = socket
        self.loop = loop
        self.handler = handler
        do {
            watcher = try loop.watchReadable(socket.fileDescriptor) { [weak self] in
                self?.readAll()
            }
        } catch {
            throw .system(operation: "watch a socket", reason: "\(error)")
        }
        readSoon()
    }

    /// Stops the callbacks and closes the socket. May be called from the handler.
    package func close() {
        // The loop must let go of the file before ZMQ closes it.
        watcher?.cancel()
        watcher = nil
        continuation?.cancel()
        continuation = nil
        socket.close()
    }

    /// To be called after a send: it may have eaten the edge of a message that came in.
    package func readSoon() {
        guard continuation == nil, socket.isOpen else { return }
        continuation = loop.schedule(after: .zero) { [weak self] in
            guard let self else { return }
            continuation = nil
            readAll()
        }
    }

    private func readAll() {
        guard !isReading else { return }
        isReading = true
        defer { isReading = false }
        for _ in 0..<Self.burstCount {
            guard socket.receive(into: message) else { return }
            handler(message)
        }
        readSoon()
    }
}
