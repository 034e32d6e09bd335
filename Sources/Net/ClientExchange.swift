internal import CNet
public import Core

/// The body of a request.
public enum RequestBody: Sendable {
    /// None.
    case none
    /// All of it. Can be sent again if a pooled connection turns out to be dead.
    case bytes([UInt8])
    /// Written to the exchange; a length that is known becomes `content-length`, otherwise the
    /// body is chunked on HTTP/1.
    case stream(length: Int?)
}

/// Hears about one request at a client. Called on the client's loop, never from inside a call of
/// the exchange or of `start`.
public protocol ClientExchangeDelegate: AnyObject {
    /// The response started. Interim responses are not reported.
    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead)
    /// A part of the response body; `body` is valid only during the call.
    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer)
    /// The response is complete. Last, and not together with a failure.
    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?)
    /// The queue fell to the low-water mark after a write returned false.
    func exchangeWritable(_ exchange: ClientExchange)
    /// The exchange failed. Last. ``ClientExchange/hasResponded`` and
    /// ``ClientExchange/requestWasSent`` tell whether another try is safe.
    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError)
}

extension ClientExchangeDelegate {
    /// Does nothing.
    public func exchangeWritable(_ exchange: ClientExchange) {}
}

/// One request of a client, made by ``HTTPClient/start(_:to:body:delegate:)``. Belongs to the
/// client's loop. Calls after the end do nothing.
public final class ClientExchange {
    /// The server.
    public let address: SocketAddress
    /// The request.
    public let head: HTTPRequestHead
    /// Whether the response's head arrived.
    public private(set) var hasResponded = false
    /// Whether any byte of the request may have reached the server. When false, the request can
    /// go elsewhere whatever it does.
    public private(set) var requestWasSent = false

    /// Whether the request was sent a second time: the server had refused it unprocessed, or had
    /// closed an idle connection just as the request came.
    public private(set) var wasRetried = false

    let body: RequestBody
    /// The pool's own business.
    var waitLimit: Timer?
    /// When the request was sent, if that was on a connection that had carried others.
    private var sentOnReusedAt: MonotonicTime?
    private weak var client: HTTPClient?
    private var delegate: (any ClientExchangeDelegate)?
    private var handle: OpaquePointer?
    /// What was written before there was a connection.
    private var early: [UInt8] = []
    private var earlyTrailers: HTTPHeaders?
    private var isFinishedEarly = false
    private var isPausedEarly = false
    private var awaitsWritable = false
    private var trailers: HTTPHeaders?
    private let highWaterBytes: Int

    init(
        _ head: HTTPRequestHead, to address: SocketAddress, body: RequestBody,
        client: HTTPClient, delegate: any ClientExchangeDelegate
    ) {
        self.head = head
        self.address = address
        self.body = body
        self.client = client
        self.delegate = delegate
        highWaterBytes = client.configuration.highWaterBytes
    }

    /// Sends or copies bytes of a streamed body; `bytes` is free for reuse on return.
    ///
    /// - Returns: False if the queue is above its high-water mark: write no more until
    ///   ``ClientExchangeDelegate/exchangeWritable(_:)``. True after the end.
    @discardableResult
    public func write(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard !isOver, !bytes.isEmpty else { return true }
        if let handle {
            return cn_exchange_write(
                handle, bytes.assumingMemoryBound(to: UInt8.self).baseAddress, bytes.count)
        }
        early.append(contentsOf: bytes)
        awaitsWritable = early.count > highWaterBytes
        return !awaitsWritable
    }

    /// As ``write(_:)-(UnsafeRawBufferPointer)``.
    @discardableResult
    public func write(_ bytes: [UInt8]) -> Bool {
        bytes.withUnsafeBytes { write($0) }
    }

    /// Completes a streamed body.
    public func finish(trailers: HTTPHeaders? = nil) {
        guard !isOver else { return }
        guard let handle else {
            isFinishedEarly = true
            earlyTrailers = trailers
            return
        }
        finish(handle, trailers)
    }

    /// Ends the exchange: closes an HTTP/1 connection, resets an HTTP/2 stream. The delegate hears
    /// nothing more.
    public func cancel() {
        guard !isOver else { return }
        end()
        guard let handle else {
            client?.pool(for: self)?.forget(self)
            return
        }
        self.handle = nil
        cn_exchange_cancel(handle)
        // The reference that the C side held.
        Unmanaged.passUnretained(self).release()
    }

    /// Stops reading the response: the socket on HTTP/1, window updates on HTTP/2. What was read
    /// already (64 KiB, or the stream's window) may still be delivered.
    public func pauseReading() {
        guard let handle else {
            isPausedEarly = true
            return
        }
        cn_exchange_pause(handle)
    }

    /// Undoes ``pauseReading()``.
    public func resumeReading() {
        guard let handle else {
            isPausedEarly = false
            return
        }
        cn_exchange_resume(handle)
    }

    /// Whether the delegate has heard the last, or was told that it will hear nothing.
    var isOver: Bool { delegate == nil }

    private func finish(_ handle: OpaquePointer, _ trailers: HTTPHeaders?) {
        guard let trailers else { return cn_exchange_finish(handle, nil) }
        trailers.withHead { cn_exchange_finish(handle, &$0) }
    }

    private func end() {
        delegate = nil
        waitLimit?.cancel()
        waitLimit = nil
        early = []
    }

    func fail(_ error: NetError) {
        guard let delegate else { return }
        end()
        delegate.exchangeFailed(self, error)
    }
}

extension ClientExchange {
    /// Sends the request on a connection. The C side holds one reference from here to `closed`.
    func start(on connection: OpaquePointer, isReused: Bool) throws(NetError) {
        waitLimit?.cancel()
        waitLimit = nil
        sentOnReusedAt = isReused ? .now : nil
        let length: Int64 =
            switch body {
            case .none: 0
            case .bytes(let bytes): Int64(bytes.count)
            case .stream(let length): length.map(Int64.init) ?? -1
            }
        var handle: OpaquePointer?
        let user = Unmanaged.passRetained(self)
        let status = head.withHead(
            authority: address.isUnixSocket ? "localhost" : address.description
        ) { head in
            cn_client_start(connection, head, length, user.toOpaque(), &handle)
        }
        guard status == CN_OK, let handle else {
            user.release()
            throw NetError(status)
        }
        self.handle = handle
        if isPausedEarly { cn_exchange_pause(handle) }
        switch body {
        case .none: break
        case .bytes(let bytes):
            guard !bytes.isEmpty else { break }
            write(bytes)
            finish(handle, nil)
        case .stream(let length):
            let bytes = early
            early = []
            let isBelow = bytes.isEmpty || write(bytes)
            if isFinishedEarly {
                if length != 0 { finish(handle, earlyTrailers) }
            } else if awaitsWritable, isBelow {
                awaitsWritable = false
                client?.loop.schedule(after: .zero) { [weak self] in
                    guard let self else { return }
                    self.delegate?.exchangeWritable(self)
                }
            }
        }
    }

    static var events: cn_exchange_events {
        var events = cn_exchange_events()
        events.responded = { user, head in
            let exchange = ClientExchange.from(user)
            guard let head else { return }
            exchange.hasResponded = true
            exchange.delegate?.exchange(exchange, responded: HTTPResponseHead(head.pointee))
        }
        events.body = { user, bytes, count in
            let exchange = ClientExchange.from(user)
            exchange.delegate?.exchange(
                exchange, received: UnsafeRawBufferPointer(start: bytes, count: count))
        }
        events.ended = { user, trailers in
            ClientExchange.from(user).trailers = trailers.map { HTTPHeaders($0.pointee) }
        }
        events.writable = { user in
            let exchange = ClientExchange.from(user)
            exchange.delegate?.exchangeWritable(exchange)
        }
        events.closed = { user, status, detail in
            let exchange = Unmanaged<ClientExchange>.fromOpaque(user.unsafelyUnwrapped)
                .takeRetainedValue()
            exchange.closed(status, detail)
        }
        return events
    }

    private func closed(_ status: cn_status, _ detail: UnsafePointer<CChar>?) {
        if let handle {
            requestWasSent = requestWasSent || cn_exchange_was_sent(handle)
        }
        handle = nil
        guard let delegate else { return }
        if status == CN_OK {
            end()
            return delegate.exchangeReceivedEnd(self, trailers: trailers)
        }
        if canBeRetried(after: status), let pool = client?.pool(for: self) {
            wasRetried = true
            return pool.retry(self)
        }
        fail(NetError(status, detail: detail, subject: address))
    }

    /// A server may close an idle connection while a request is on its way to it. That shows
    /// within a round trip; one that closes later may have died of the request.
    private func canBeRetried(after status: cn_status) -> Bool {
        if case .stream = body { return false }
        guard !wasRetried, !hasResponded, let client else { return false }
        if status == CN_REFUSED { return true }
        guard status == CN_CLOSED || status == CN_RESET, let sentOnReusedAt else { return false }
        return .now - sentOnReusedAt <= client.configuration.idleCloseWindow
    }

    private static func from(_ user: UnsafeMutableRawPointer?) -> ClientExchange {
        Unmanaged<ClientExchange>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
    }
}
