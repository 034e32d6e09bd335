internal import CNet
public import Core
internal import Dispatch
internal import Synchronization

/// How a server treats its connections.
public struct HTTPServerConfiguration: Sendable {
    /// TLS for every connection; nil: plain.
    public var tls: TLSServerContext?
    /// A longer header section is answered with 431.
    public var maximumHeaderBytes = 64 << 10
    /// From the first byte of a connection or request to its complete head: 408, then closed.
    public var headerTimeout = Duration.seconds(10)
    /// How long a connection may wait for a next request, or a body may make no progress either
    /// way; zero: as long as it takes. Long-lived streams that may be silent need zero.
    public var idleTimeout = Duration.seconds(75)
    /// Per loop. Above it no connection is accepted until one ends; nor is one while the process
    /// is out of file descriptors.
    public var maximumConnections = 10_000
    /// Above so many unsent bytes of one response, writes return false.
    public var highWaterBytes = 256 << 10
    /// At so many unsent bytes, an exchange becomes writable again.
    public var lowWaterBytes = 64 << 10
    /// What an HTTP/2 client may send of one request body before it is consumed.
    public var http2StreamWindow = 256 << 10
    /// Concurrent requests of one HTTP/2 connection.
    public var http2MaximumStreams = 1024
    /// Requests of one HTTP/2 connection that its client may reset or spoil before they are
    /// answered, at once and per second; above it the connection is closed. Proxies that reset
    /// streams as a matter of course need more.
    public var http2ResetRateLimit = (burst: 1000, perSecond: 100)

    /// The defaults above, plain.
    public init(tls: TLSServerContext? = nil) {
        self.tls = tls
    }
}

/// Decides about one request: answers it completely, or returns who does. Nil without an answer is
/// 404. Called on the exchange's loop.
public typealias HTTPServerHandler =
    @Sendable (ServerExchange) -> (any ServerExchangeDelegate)?

/// An HTTP server: a listener per loop of a group, all on one port (SO_REUSEPORT). Speaks
/// HTTP/1.0, 1.1 and 2; HTTP/2 starts by ALPN or by prior knowledge, on the same port.
///
/// Any thread. Runs until ``drain(within:)`` or the end of its loops, whether or not anybody holds
/// it.
public final class HTTPServer: Sendable {
    /// The address it listens on, with the real port.
    public let address: SocketAddress
    private let listeners: [Listener]

    private init(address: SocketAddress, listeners: [Listener]) {
        self.address = address
        self.listeners = listeners
    }

    /// Starts to listen. Blocks until every loop does; not on one of the loops.
    ///
    /// - Parameter address: The host is a literal; port 0 takes a free one.
    /// - Throws: ``NetError/addressInUse(_:)`` if anybody listens there, this process included.
    public static func listen(
        on group: EventLoopGroup, at address: SocketAddress,
        configuration: HTTPServerConfiguration = HTTPServerConfiguration(),
        handler: @escaping HTTPServerHandler
    ) throws(NetError) -> HTTPServer {
        try listen(on: group.loops, at: address, configuration, handler)
    }

    /// As ``listen(on:at:configuration:handler:)-(EventLoopGroup,_,_,_)``, on one loop; also from
    /// there.
    public static func listen(
        on loop: EventLoop, at address: SocketAddress,
        configuration: HTTPServerConfiguration = HTTPServerConfiguration(),
        handler: @escaping HTTPServerHandler
    ) throws(NetError) -> HTTPServer {
        try listen(on: [loop], at: address, configuration, handler)
    }

    private static func listen(
        on loops: [EventLoop], at address: SocketAddress,
        _ configuration: HTTPServerConfiguration, _ handler: @escaping HTTPServerHandler
    ) throws(NetError) -> HTTPServer {
        // With SO_REUSEPORT two processes of one user could share a port by mistake.
        let probe = cn_address_probe(address.host, address.port)
        guard probe == CN_OK else { throw NetError(probe, subject: address) }
        var bound = address
        var listeners: [Listener] = []
        for loop in loops {
            do throws(NetError) {
                let listener = try Listener.start(
                    on: loop, at: bound, shared: loops.count > 1, configuration, handler)
                bound.port = listener.port
                listeners.append(listener)
            } catch {
                for listener in listeners { listener.destroy() }
                throw error
            }
        }
        return HTTPServer(address: bound, listeners: listeners)
    }

    /// Stops accepting and aborts every exchange.
    public func close() {
        for listener in listeners { listener.destroy() }
    }

    /// Stops accepting, closes idle connections, tells the others to go (`connection: close`,
    /// GOAWAY), waits for the running exchanges, and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        await withTaskGroup { group in
            for listener in listeners {
                group.addTask { await listener.drain(within: deadline) }
            }
        }
    }
}

/// The listener of one loop.
private final class Listener: @unchecked Sendable {
    // Proof for the annotation: `handle`, `waiting` and `deadline` are touched on the loop alone;
    // the rest never changes after `start` returned.
    let loop: EventLoop
    let handler: HTTPServerHandler
    private(set) var port: UInt16 = 0
    private var handle: OpaquePointer?
    private var waiting: [CheckedContinuation<Void, Never>] = []
    private var deadline: Timer?

    private init(on loop: EventLoop, _ handler: @escaping HTTPServerHandler) {
        self.loop = loop
        self.handler = handler
    }

    static func start(
        on loop: EventLoop, at address: SocketAddress, shared: Bool,
        _ configuration: HTTPServerConfiguration, _ handler: @escaping HTTPServerHandler
    ) throws(NetError) -> Listener {
        let listener = Listener(on: loop, handler)
        let status = Mutex<cn_status?>(nil)
        if loop.isCurrent {
            let result = listener.open(at: address, shared: shared, configuration)
            status.withLock { $0 = result }
        } else {
            loop.runAndWait {
                let result = listener.open(at: address, shared: shared, configuration)
                status.withLock { $0 = result }
            }
        }
        guard let status = status.withLock({ $0 }) else { throw .cancelled }
        guard status == CN_OK else { throw NetError(status, subject: address) }
        return listener
    }

    private func open(
        at address: SocketAddress, shared: Bool, _ configuration: HTTPServerConfiguration
    ) -> cn_status {
        var settings = cn_listener_config()
        settings.connection.max_head_bytes = UInt32(clamping: configuration.maximumHeaderBytes)
        settings.connection.high_water_bytes = UInt32(clamping: configuration.highWaterBytes)
        settings.connection.low_water_bytes = UInt32(clamping: configuration.lowWaterBytes)
        settings.connection.idle_timeout_ms = configuration.idleTimeout.wholeMilliseconds
        settings.connection.h2_stream_window_bytes = UInt32(
            clamping: configuration.http2StreamWindow)
        settings.connection.h2_max_stream_count = UInt32(
            clamping: configuration.http2MaximumStreams)
        settings.connection.tls = configuration.tls?.handle
        settings.head_timeout_ms = configuration.headerTimeout.wholeMilliseconds
        settings.max_connection_count = UInt32(clamping: configuration.maximumConnections)
        settings.h2_reset_burst = UInt32(clamping: configuration.http2ResetRateLimit.burst)
        settings.h2_reset_rate = UInt32(clamping: configuration.http2ResetRateLimit.perSecond)
        var events = cn_listener_events()
        events.request = { user, exchange, head in
            let listener = Unmanaged<Listener>.fromOpaque(user.unsafelyUnwrapped)
                .takeUnretainedValue()
            guard let exchange, let head else { return nil }
            return ServerExchange.accept(exchange, head, on: listener.loop, listener.handler)
        }
        events.gone = { user in
            Unmanaged<Listener>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue().gone()
        }
        var exchangeEvents = ServerExchange.events
        let user = Unmanaged.passRetained(self)
        let status = cn_listener_create(
            loop.handle, address.host, address.port, shared, &settings, &events, &exchangeEvents,
            user.toOpaque(), &handle)
        guard status == CN_OK, let handle else {
            user.release()
            return status
        }
        port = cn_listener_port(handle)
        return CN_OK
    }

    func destroy() {
        loop.execute { [self] in
            if let handle { cn_listener_destroy(handle) }
        }
    }

    func drain(within limit: Duration) async {
        await withCheckedContinuation { continuation in
            let isRunning = loop.execute { [self] in
                guard let handle else { return continuation.resume() }
                waiting.append(continuation)
                guard deadline == nil else { return }
                deadline = loop.schedule(after: limit) { [self] in
                    if let handle = self.handle { cn_listener_destroy(handle) }
                }
                cn_listener_drain(handle)
            }
            if !isRunning { continuation.resume() }
        }
    }

    private func gone() {
        handle = nil
        deadline?.cancel()
        deadline = nil
        for continuation in waiting { continuation.resume() }
        waiting = []
    }
}

extension EventLoop {
    /// Runs `body` on the loop and waits for it; does nothing once the loop was shut down.
    func runAndWait(_ body: @escaping @Sendable () -> Void) {
        precondition(!isCurrent, "a loop cannot wait for itself")
        let done = DispatchSemaphore(value: 0)
        if execute({
            body()
            done.signal()
        }) {
            done.wait()
        }
    }
}

extension Duration {
    /// Milliseconds rounded up, as the C side takes them; 0 stays 0.
    var wholeMilliseconds: UInt32 {
        UInt32(clamping: (max(0, nanoseconds) + 999_999) / 1_000_000)
    }
}
