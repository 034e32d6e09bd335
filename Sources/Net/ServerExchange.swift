internal import CNet
public import Core

/// How an exchange ended.
public enum ExchangeEnd: Hashable, Sendable {
    /// Request and response are complete.
    case complete
    /// Something went wrong: the client is gone, time ran out, the protocol was broken, or this
    /// side aborted.
    case aborted(NetError)
}

/// What a server's handler returns to hear about one exchange. Called on the exchange's loop,
/// never from inside a call of the exchange.
public protocol ServerExchangeDelegate: AnyObject {
    /// A part of the request body; `body` is valid only during the call.
    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer)
    /// The request body is complete; also called for requests without one.
    func exchangeReceivedEnd(_ exchange: ServerExchange)
    /// The queue fell to the low-water mark after a write returned false.
    func exchangeWritable(_ exchange: ServerExchange)
    /// Exactly once and last.
    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd)
}

extension ServerExchangeDelegate {
    /// Ignores the body.
    public func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {}
    /// Does nothing.
    public func exchangeReceivedEnd(_ exchange: ServerExchange) {}
    /// Does nothing.
    public func exchangeWritable(_ exchange: ServerExchange) {}
    /// Does nothing.
    public func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {}
}

/// Watches one exchange, whoever answers it: for logs, and for headers of every response. Called on
/// the exchange's loop.
public protocol ServerExchangeWatcher: AnyObject {
    /// The response starts; `head` may still be changed.
    func exchange(_ exchange: ServerExchange, willRespond head: inout HTTPResponseHead)
    /// So many bytes of the request body came.
    func exchange(_ exchange: ServerExchange, receivedCount: Int)
    /// A part of the response body, valid during the call only.
    func exchange(_ exchange: ServerExchange, sends body: UnsafeRawBufferPointer)
    /// Exactly once and last, after the delegate heard of it.
    func exchange(_ exchange: ServerExchange, ended reason: ExchangeEnd)
}

/// The delegate of an exchange that was answered at once and needs nothing more.
public final class AnsweredExchange: ServerExchangeDelegate {
    /// Listens to the rest of an exchange.
    public init() {}
}

/// One request at a server, and the way to answer it. Belongs to its loop. Calls after the end do
/// nothing, so a handler need not watch for it.
public final class ServerExchange {
    /// The request.
    public let head: HTTPRequestHead
    /// The loop that everything about this exchange happens on.
    public let loop: EventLoop
    /// Whether the request came by HTTP/2.
    public let isHTTP2: Bool
    /// Who watches; held until the end.
    public var watcher: (any ServerExchangeWatcher)?

    private var handle: OpaquePointer?
    fileprivate var delegate: (any ServerExchangeDelegate)?

    fileprivate init(_ handle: OpaquePointer, _ head: borrowing cn_head, on loop: EventLoop) {
        self.handle = handle
        self.head = HTTPRequestHead(head)
        self.loop = loop
        isHTTP2 = cn_exchange_is_h2(handle)
    }

    /// The client's address; nil after the end.
    public var peer: SocketAddress? {
        guard let handle else { return nil }
        let text = withUnsafeTemporaryAllocation(of: CChar.self, capacity: 80) { text in
            let count = cn_exchange_peer(handle, text.baseAddress, text.count)
            return String(decoding: UnsafeRawBufferPointer(text).prefix(count), as: UTF8.self)
        }
        return try? SocketAddress(parsing: text)
    }

    /// Starts the response. On HTTP/1 a `content-length` field sets the framing; without one the
    /// body is chunked.
    public func respond(_ head: HTTPResponseHead) {
        guard let handle else { return }
        var head = head
        watcher?.exchange(self, willRespond: &head)
        head.withHead { cn_exchange_respond(handle, $0) }
    }

    /// Sends or copies bytes of the body; `bytes` is free for reuse on return.
    ///
    /// - Returns: False if the queue is above its high-water mark: write no more until
    ///   ``ServerExchangeDelegate/exchangeWritable(_:)``. True after the end.
    @discardableResult
    public func write(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let handle, !bytes.isEmpty else { return true }
        watcher?.exchange(self, sends: bytes)
        return cn_exchange_write(
            handle, bytes.assumingMemoryBound(to: UInt8.self).baseAddress, bytes.count)
    }

    /// As ``write(_:)-(UnsafeRawBufferPointer)``.
    @discardableResult
    public func write(_ bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBytes { write($0) }
    }

    /// Completes the response. Trailers are sent on HTTP/2 and on chunked HTTP/1.1.
    public func finish(trailers: HTTPHeaders? = nil) {
        guard let handle else { return }
        guard let trailers else { return cn_exchange_finish(handle, nil) }
        trailers.withHead { cn_exchange_finish(handle, &$0) }
    }

    /// A whole response; adds `content-length`.
    public func respond(_ head: HTTPResponseHead, body: UnsafeRawBufferPointer) {
        var head = head
        head.headers.set("content-length", String(body.count))
        respond(head)
        write(body)
        finish()
    }

    /// A whole response; adds `content-length`.
    public func respond(_ head: HTTPResponseHead, body: [UInt8]) {
        body.withUnsafeBytes { respond(head, body: $0) }
    }

    /// A whole response of text; adds `content-length`.
    public func respond(_ head: HTTPResponseHead, text: String) {
        var text = text
        text.withUTF8 { respond(head, body: UnsafeRawBufferPointer($0)) }
    }

    /// Sends an interim response (102, 103) before ``respond(_:)``. Net itself sends 100 when the
    /// handler lets a client that waits for it go on.
    public func informational(_ status: Int) {
        guard let handle else { return }
        cn_exchange_inform(handle, UInt32(clamping: status))
    }

    /// Ends the exchange without completing the response: closes an HTTP/1 connection, resets an
    /// HTTP/2 stream. The delegate hears `.aborted(.cancelled)`.
    public func abort() {
        guard let handle else { return }
        cn_exchange_abort(handle)
    }

    /// Stops reading the request: the socket on HTTP/1, window updates on HTTP/2. What was read
    /// already (64 KiB, or the stream's window) may still be delivered.
    public func pauseReading() {
        guard let handle else { return }
        cn_exchange_pause(handle)
    }

    /// Undoes ``pauseReading()``.
    public func resumeReading() {
        guard let handle else { return }
        cn_exchange_resume(handle)
    }
}

extension ServerExchange {
    /// The C side holds one reference from `request` to `closed`.
    static func accept(
        _ handle: OpaquePointer, _ head: UnsafePointer<cn_head>, on loop: EventLoop,
        _ handler: (ServerExchange) -> (any ServerExchangeDelegate)?
    ) -> UnsafeMutableRawPointer? {
        let exchange = ServerExchange(handle, head.pointee, on: loop)
        guard let delegate = handler(exchange) else {
            exchange.handle = nil
            return nil
        }
        exchange.delegate = delegate
        return Unmanaged.passRetained(exchange).toOpaque()
    }

    static var events: cn_exchange_events {
        var events = cn_exchange_events()
        events.body = { user, bytes, count in
            let exchange = ServerExchange.from(user)
            exchange.watcher?.exchange(exchange, receivedCount: count)
            exchange.delegate?.exchange(
                exchange, received: UnsafeRawBufferPointer(start: bytes, count: count))
        }
        events.ended = { user, _ in
            let exchange = ServerExchange.from(user)
            exchange.delegate?.exchangeReceivedEnd(exchange)
        }
        events.writable = { user in
            let exchange = ServerExchange.from(user)
            exchange.delegate?.exchangeWritable(exchange)
        }
        events.closed = { user, status, detail in
            let exchange = Unmanaged<ServerExchange>.fromOpaque(user.unsafelyUnwrapped)
                .takeRetainedValue()
            exchange.handle = nil
            let delegate = exchange.delegate
            exchange.delegate = nil
            let reason: ExchangeEnd =
                status == CN_OK ? .complete : .aborted(NetError(status, detail: detail))
            delegate?.exchangeClosed(exchange, reason)
            exchange.watcher?.exchange(exchange, ended: reason)
            exchange.watcher = nil
        }
        return events
    }

    private static func from(_ user: UnsafeMutableRawPointer?) -> ServerExchange {
        Unmanaged<ServerExchange>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
    }
}
