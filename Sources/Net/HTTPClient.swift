internal import CNet
public import Core

/// How a client makes and keeps connections.
public struct HTTPClientConfiguration: Sendable {
    /// For a connection: the wait for a place in the pool, name, TCP and TLS.
    public var connectTimeout = Duration.seconds(2)
    /// From the end of the request to the head of its response; nil: as long as it takes.
    public var responseHeadTimeout: Duration?
    /// How long a body may make no progress, either way; nil: as long as it takes.
    public var idleTimeout: Duration?
    /// Connections to one address; further requests wait for one.
    public var maximumConnectionsPerHost = 1024
    /// Requests that wait for a connection to one address; more fail at once.
    public var maximumWaitingPerHost = 4096
    /// Idle connections kept to one address.
    public var maximumIdlePerHost = 64
    /// How long an idle connection is kept.
    public var idleConnectionLifetime = Duration.seconds(60)
    /// A reused connection that closes within this time of a request, without a byte of a
    /// response, counts as closed for idleness: the request is sent again on a new one.
    public var idleCloseWindow = Duration.seconds(1)
    /// TLS to every server; nil: plain.
    public var tls: TLSClientContext?
    /// HTTP/2: by prior knowledge when plain, offered by ALPN with TLS.
    public var http2 = false
    /// A longer header section of a response is an error.
    public var maximumHeaderBytes = 64 << 10
    /// Above so many unsent bytes of one request, writes return false.
    public var highWaterBytes = 256 << 10
    /// At so many unsent bytes, an exchange becomes writable again.
    public var lowWaterBytes = 64 << 10
    /// What an HTTP/2 server may send of one response body before it is consumed.
    public var http2StreamWindow = 256 << 10

    /// The defaults above: plain HTTP/1.1.
    public init() {}
}

/// A whole response.
public struct HTTPResponse: Sendable {
    /// Status and fields.
    public var head: HTTPResponseHead
    /// The body.
    public var body: [UInt8]
    /// The fields after the body, if there were any.
    public var trailers: HTTPHeaders?

    /// A response of these parts.
    public init(head: HTTPResponseHead, body: [UInt8], trailers: HTTPHeaders? = nil) {
        self.head = head
        self.body = body
        self.trailers = trailers
    }

    /// The status code.
    public var status: Int { head.status }
}

/// An HTTP client with a pool of connections per address. Belongs to one loop, except for
/// ``send(_:to:body:maximumResponseBytes:timeout:)``.
public final class HTTPClient: @unchecked Sendable {
    // Proof for the annotation: `pools` and `isShutDown` are touched on the loop alone; the rest
    // never changes.

    /// The loop it belongs to.
    public let loop: EventLoop
    let configuration: HTTPClientConfiguration
    private var pools: [SocketAddress: ConnectionPool] = [:]
    private var isShutDown = false

    /// Any thread.
    public init(
        on loop: EventLoop, configuration: HTTPClientConfiguration = HTTPClientConfiguration()
    ) {
        self.loop = loop
        self.configuration = configuration
    }

    /// Starts a request. On the loop.
    ///
    /// `delegate` is held until it has heard the last of the exchange.
    @discardableResult
    public func start(
        _ head: HTTPRequestHead, to address: SocketAddress, body: RequestBody = .none,
        delegate: any ClientExchangeDelegate
    ) -> ClientExchange {
        loop.preconditionInLoop()
        let exchange = ClientExchange(
            head, to: address, body: body, client: self, delegate: delegate)
        if isShutDown {
            failLater([exchange], .cancelled)
        } else {
            makePool(address).start(exchange)
        }
        return exchange
    }

    /// Closes every connection: running requests fail with ``NetError/cancelled``, and so does
    /// every later one. On the loop.
    public func shutdown() {
        loop.preconditionInLoop()
        isShutDown = true
        for pool in pools.values { pool.shutdown() }
        pools = [:]
    }

    func pool(for exchange: ClientExchange) -> ConnectionPool? {
        isShutDown ? nil : pools[exchange.address]
    }

    /// Fails exchanges, but not from inside a call.
    func failLater(_ exchanges: [ClientExchange], _ error: NetError) {
        let fail = { for exchange in exchanges { exchange.fail(error) } }
        if cn_loop_is_stopping(loop.handle) {
            fail()
        } else {
            loop.schedule(after: .zero, fail)
        }
    }

    /// A pool without connections holds nothing worth keeping.
    func discard(_ pool: ConnectionPool) {
        if pools[pool.address] === pool { pools[pool.address] = nil }
    }

    private func makePool(_ address: SocketAddress) -> ConnectionPool {
        if let pool = pools[address] { return pool }
        let pool = ConnectionPool(to: address, client: self)
        pools[address] = pool
        return pool
    }
}

extension HTTPClient {
    /// Sends a request and collects its response. Any thread; meant for control planes. Cancelling
    /// the task ends the request with ``NetError/cancelled``.
    ///
    /// - Throws: ``NetError/bodyTooLarge(limit:)`` above `maximumResponseBytes`, and
    ///   `.timeout(.deadline)` after `timeout`.
    public func send(
        _ head: HTTPRequestHead, to address: SocketAddress, body: [UInt8]? = nil,
        maximumResponseBytes: Int = 16 << 20, timeout: Duration = .seconds(30)
    ) async throws(NetError) -> HTTPResponse {
        let collector = ResponseCollector(limit: maximumResponseBytes)
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isRunning = loop.execute { [self] in
                    collector.start(
                        on: self, head, to: address, body: body.map(RequestBody.bytes) ?? .none,
                        timeout: timeout, continuation)
                }
                if !isRunning { continuation.resume(returning: .failure(.cancelled)) }
            }
        } onCancel: {
            loop.execute { collector.fail(.cancelled) }
        }
        return try result.get()
    }
}

/// Collects one response for `send`.
private final class ResponseCollector: ClientExchangeDelegate, @unchecked Sendable {
    // Proof for the annotation: everything but `limit` is touched on the loop alone.
    private let limit: Int
    private var continuation: CheckedContinuation<Result<HTTPResponse, NetError>, Never>?
    private var exchange: ClientExchange?
    private var deadline: Timer?
    private var response: HTTPResponse?
    private var isCancelled = false

    init(limit: Int) {
        self.limit = limit
    }

    func start(
        on client: HTTPClient, _ head: HTTPRequestHead, to address: SocketAddress,
        body: RequestBody, timeout: Duration,
        _ continuation: CheckedContinuation<Result<HTTPResponse, NetError>, Never>
    ) {
        self.continuation = continuation
        if isCancelled { return fail(.cancelled) }
        exchange = client.start(head, to: address, body: body, delegate: self)
        deadline = client.loop.schedule(after: timeout) { [self] in fail(.timeout(.deadline)) }
    }

    func fail(_ error: NetError) {
        isCancelled = true
        exchange?.cancel()
        end(.failure(error))
    }

    private func end(_ result: Result<HTTPResponse, NetError>) {
        exchange = nil
        deadline?.cancel()
        deadline = nil
        continuation?.resume(returning: result)
        continuation = nil
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        response = HTTPResponse(head: head, body: [])
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        if (response?.body.count ?? 0) + body.count > limit {
            return fail(.bodyTooLarge(limit: limit))
        }
        response?.body.append(contentsOf: body)
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        guard var response else { return }
        response.trailers = trailers
        end(.success(response))
    }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        end(.failure(error))
    }
}
