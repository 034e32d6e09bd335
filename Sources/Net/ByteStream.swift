internal import CNet
public import Core

/// A client's connection that carries bytes as they are, for protocols that are not HTTP.
///
/// Belongs to its loop: made, used and closed there. The handler is called there, never from inside
/// a call.
public final class ByteStream {
    /// Where to connect to.
    public enum Remote: Hashable, Sendable, CustomStringConvertible {
        /// A TCP port; all addresses of a name are tried in turn.
        case tcp(SocketAddress)
        /// The absolute path of a Unix socket.
        case unix(path: String)

        /// `host:port`, or the path.
        public var description: String {
            switch self {
            case .tcp(let address): address.description
            case .unix(let path): path
            }
        }
    }

    /// What happened.
    public enum Event {
        /// The connection is up, TLS included: bytes may be written.
        case opened
        /// Bytes came; valid during the call only.
        case received(UnsafeRawBufferPointer)
        /// The connection ended, or could not be made. Once and last, except after
        /// ``ByteStream/close()``.
        case closed(NetError)
    }

    private let remote: Remote
    private var handler: ((Event) -> Void)?
    private var client: OpaquePointer?
    private var exchange: OpaquePointer?

    /// Starts to connect.
    ///
    /// - Parameters:
    ///   - connectTimeout: for name, connection and TLS handshake together.
    ///   - tls: nil for a plain connection.
    public init(
        to remote: Remote, tls: TLSClientContext? = nil, connectTimeout: Duration,
        on loop: EventLoop, handler: @escaping (Event) -> Void
    ) throws(NetError) {
        loop.preconditionInLoop()
        self.remote = remote
        self.handler = handler
        let (host, port, subject): (String, UInt16, SocketAddress?) =
            switch remote {
            case .tcp(let address): (address.host, address.port, address)
            case .unix(let path): (path, 0, nil)
            }
        guard host.hasPrefix("/") == (subject == nil) else {
            throw .invalidArgument("'\(host)' is not an absolute path or a host")
        }
        var settings = cn_client_config()
        // The owner bounds what it writes.
        settings.connection.high_water_bytes = .max
        settings.connection.tls = tls?.handle
        settings.connect_timeout_ms = connectTimeout.wholeMilliseconds
        settings.codec = CN_CODEC_NONE
        // The C side holds one reference from here to `closed`.
        let user = Unmanaged.passRetained(self)
        let status = (tls?.serverName ?? host).withCString { name in
            settings.server_name = name
            var events = Self.clientEvents
            var exchangeEvents = Self.exchangeEvents
            return cn_client_connect(
                loop.handle, host, port, &settings, &events, &exchangeEvents, user.toOpaque(),
                &client)
        }
        guard status == CN_OK else {
            user.release()
            throw NetError(status, subject: subject)
        }
    }

    /// Sends bytes, or copies those that the socket does not take yet. Does nothing before
    /// ``Event/opened`` and after the end.
    public func write(_ bytes: [UInt8]) {
        guard let exchange else { return }
        _ = bytes.withUnsafeBufferPointer {
            cn_exchange_write(exchange, $0.baseAddress, $0.count)
        }
    }

    /// Ends the connection; no event comes after it.
    public func close() {
        handler = nil
        guard let client else { return }
        cn_client_close(client)
    }

    private func opened() {
        var exchange: OpaquePointer?
        guard let client, handler != nil,
            cn_client_start(client, nil, 0, Unmanaged.passUnretained(self).toOpaque(), &exchange)
                == CN_OK
        else { return close() }
        self.exchange = exchange
        handler?(.opened)
    }

    private func closed(_ status: cn_status, _ detail: UnsafePointer<CChar>?) {
        client = nil
        let handler = handler
        self.handler = nil
        let subject: SocketAddress? =
            if case .tcp(let address) = remote { address } else { nil }
        handler?(.closed(NetError(status, detail: detail, subject: subject)))
    }

    private static var clientEvents: cn_client_events {
        var events = cn_client_events()
        events.connected = { user, _ in ByteStream.from(user).opened() }
        events.available = { _ in }
        events.closed = { user, status, detail in
            Unmanaged<ByteStream>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue()
                .closed(status, detail)
        }
        return events
    }

    private static var exchangeEvents: cn_exchange_events {
        var events = cn_exchange_events()
        events.responded = { _, _ in }
        events.body = { user, bytes, count in
            let bytes = UnsafeRawBufferPointer(start: bytes, count: count)
            ByteStream.from(user).handler?(.received(bytes))
        }
        events.ended = { _, _ in }
        events.writable = { _ in }
        events.closed = { user, _, _ in ByteStream.from(user).exchange = nil }
        return events
    }

    private static func from(_ user: UnsafeMutableRawPointer?) -> ByteStream {
        Unmanaged<ByteStream>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
    }
}
