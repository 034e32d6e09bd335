import CZeroMQ

/// Owns a ZMQ socket. Not thread-safe: used on one thread only.
package final class ZMQSocket {
    package enum Kind {
        case pub, sub, router, dealer, pair

        var code: Int32 {
            switch self {
            case .pub: ZMQ_PUB
            case .sub: ZMQ_SUB
            case .router: ZMQ_ROUTER
            case .dealer: ZMQ_DEALER
            case .pair: ZMQ_PAIR
            }
        }
    }

    /// Kept so that the context outlives the socket.
    let context: MessagingContext
    private var pointer: UnsafeMutableRawPointer?

    package init(_ kind: Kind, in context: MessagingContext) throws(MessagingError) {
        guard let socket = zmq_socket(context.pointer, kind.code) else {
            throw .last("open a socket")
        }
        self.context = context
        pointer = socket
        set(ZMQ_LINGER, 0)
    }

    deinit { close() }

    var isOpen: Bool { pointer != nil }

    package func close() {
        guard let socket = pointer else { return }
        pointer = nil
        zmq_close(socket)
    }

    /// Sets an option whose name and value are ours, so that it cannot fail.
    func set(_ option: Int32, _ value: Int32) {
        var value = value
        let result = zmq_setsockopt(pointer, option, &value, MemoryLayout<Int32>.size)
        precondition(result == 0, "ZMQ option \(option) refuses \(value)")
    }

    /// Refuses messages that are longer, so that no peer can fill the memory.
    func setMaximumMessageBytes(_ bytes: Int) {
        var value = Int64(bytes)
        let result = zmq_setsockopt(pointer, ZMQ_MAXMSGSIZE, &value, MemoryLayout<Int64>.size)
        precondition(result == 0, "ZMQ refuses a maximum message size of \(bytes)")
    }

    func subscribe(toTopicsWithPrefix prefix: String) {
        let result = zmq_setsockopt(pointer, ZMQ_SUBSCRIBE, prefix, prefix.utf8.count)
        precondition(result == 0, "ZMQ refuses a subscription")
    }

    package func bind(to endpoint: String) throws(MessagingError) {
        allowIPv6(endpoint)
        guard zmq_bind(pointer, endpoint) == 0 else {
            throw .last("bind", endpoint: endpoint)
        }
    }

    /// The connection is made, and made again after a loss, in the background.
    package func connect(to endpoint: String) throws(MessagingError) {
        allowIPv6(endpoint)
        guard zmq_connect(pointer, endpoint) == 0 else {
            throw .last("connect to", endpoint: endpoint)
        }
    }

    private func allowIPv6(_ endpoint: String) {
        if endpoint.contains("::") || endpoint.contains("[") { set(ZMQ_IPV6, 1) }
    }

    /// Where the socket was bound, with the port that the system chose for port 0.
    package var lastEndpoint: String {
        withUnsafeTemporaryAllocation(of: CChar.self, capacity: 1024) { text in
            var size = text.count
            guard zmq_getsockopt(pointer, ZMQ_LAST_ENDPOINT, text.baseAddress, &size) == 0 else {
                return ""
            }
            return String(decoding: UnsafeRawBufferPointer(text)[..<(size - 1)], as: UTF8.self)
        }
    }

    /// The file that becomes readable when the socket's state *changes*; it tells nothing while
    /// messages are left unread (zmq_getsockopt(3), ZMQ_FD).
    var fileDescriptor: Int32 {
        var descriptor: Int32 = -1
        var size = MemoryLayout<Int32>.size
        zmq_getsockopt(pointer, ZMQ_FD, &descriptor, &size)
        return descriptor
    }

    /// Reports connections made and lost to a new socket of kind `.pair`.
    func monitorConnections() throws(MessagingError) -> ZMQSocket {
        let endpoint = context.uniqueMonitorEndpoint()
        let events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED
        guard zmq_socket_monitor(pointer, endpoint, events) == 0 else {
            throw .last("monitor a socket")
        }
        let monitor = try ZMQSocket(.pair, in: context)
        try monitor.connect(to: endpoint)
        return monitor
    }

    /// Sends one frame without waiting; where the peer's queue is full, PUB and ROUTER drop the
    /// message and DEALER refuses it.
    func send(_ frame: UnsafeRawBufferPointer, more: Bool) {
        let flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)
        while zmq_send(pointer, frame.baseAddress, frame.count, flags) < 0 {
            let code = zmq_errno()
            if code == EAGAIN || code == EHOSTUNREACH { return }
            // What is left can only come from a closed socket or context, which we hold.
            precondition(code == EINTR, "zmq_send: \(String(cString: zmq_strerror(code)))")
        }
    }

    package func send(_ frame: some Collection<UInt8>, more: Bool) {
        let sent: Void? = frame.withContiguousStorageIfAvailable {
            send(UnsafeRawBufferPointer($0), more: more)
        }
        if sent == nil { Array(frame).withUnsafeBytes { send($0, more: more) } }
    }

    /// Reads the next message into `message`; false if none is waiting.
    func receive(into message: ZMQMessage) -> Bool {
        guard let pointer else { return false }
        return message.receive(from: pointer)
    }
}

/// The frames of one received message, in ZMQ's own memory; reused from message to message.
package final class ZMQMessage {
    /// Our longest message is a replay's reply at the router: identity and four frames.
    static let maximumFrameCount = 5

    private let frames: UnsafeMutablePointer<zmq_msg_t>
    /// The number of frames, also where more came than are kept.
    package private(set) var count = 0

    init() {
        frames = .allocate(capacity: Self.maximumFrameCount)
        for index in 0..<Self.maximumFrameCount { zmq_msg_init(frames + index) }
    }

    deinit {
        for index in 0..<Self.maximumFrameCount { zmq_msg_close(frames + index) }
        frames.deallocate()
    }

    /// A frame's bytes, valid until the next message is read.
    package subscript(index: Int) -> UnsafeRawBufferPointer {
        precondition(index < min(count, Self.maximumFrameCount))
        return UnsafeRawBufferPointer(
            start: zmq_msg_data(frames + index), count: zmq_msg_size(frames + index))
    }

    fileprivate func receive(from socket: UnsafeMutableRawPointer) -> Bool {
        count = 0
        var more = true
        while more {
            // Frames past the last that is kept overwrite it: the count tells.
            let frame = frames + min(count, Self.maximumFrameCount - 1)
            while zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0 {
                let code = zmq_errno()
                if code == EAGAIN { return false }
                precondition(code == EINTR, "zmq_msg_recv: \(String(cString: zmq_strerror(code)))")
            }
            count += 1
            more = zmq_msg_more(frame) != 0
        }
        return true
    }
}
