public import Core
public import Net

/// A request whose response is collected whole: bounded, with a deadline, on one loop. The result
/// is handed over once, never from inside a call; nothing is after ``cancel()``.
public final class BufferedRequest {
    private let head: HTTPRequestHead
    private let body: [UInt8]
    private let client: HTTPClient
    private let limit: Int
    private var addresses: ArraySlice<SocketAddress>
    private var completion: ((Result<HTTPResponse, NetError>) -> Void)?
    private var exchange: ClientExchange?
    private var deadline: Timer?
    private var response: HTTPResponse?

    /// Sends the request to the first of `addresses`, which is not empty, that can be connected
    /// to. On the client's loop.
    ///
    /// Fails with ``NetError/bodyTooLarge(limit:)`` above `maximumResponseBytes`, and with
    /// `.timeout(.deadline)` after `timeout`.
    public init(
        _ head: HTTPRequestHead, to addresses: [SocketAddress], body: [UInt8],
        through client: HTTPClient, maximumResponseBytes: Int, timeout: Duration,
        completion: @escaping (Result<HTTPResponse, NetError>) -> Void
    ) {
        precondition(!addresses.isEmpty, "a request needs an address")
        self.head = head
        self.addresses = addresses[...]
        self.body = body
        self.client = client
        self.completion = completion
        limit = maximumResponseBytes
        deadline = client.loop.schedule(after: timeout) { [weak self] in
            self?.end(.failure(.timeout(.deadline)))
        }
        tryNext(after: .cancelled)
    }

    /// Ends the request. A second call does nothing.
    public func cancel() {
        completion = nil
        end(.failure(.cancelled))
    }

    private func tryNext(after error: NetError) {
        guard let address = addresses.popFirst() else { return end(.failure(error)) }
        exchange = client.start(head, to: address, body: .bytes(body), delegate: self)
    }

    private func end(_ result: Result<HTTPResponse, NetError>) {
        // Does nothing if the exchange is over.
        exchange?.cancel()
        exchange = nil
        deadline?.cancel()
        deadline = nil
        let completion = completion
        self.completion = nil
        completion?(result)
    }
}

extension BufferedRequest: ClientExchangeDelegate {
    /// Keeps the head.
    public func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        response = HTTPResponse(head: head, body: [])
    }

    /// Keeps the bytes.
    public func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        guard (response?.body.count ?? 0) + body.count <= limit else {
            return end(.failure(.bodyTooLarge(limit: limit)))
        }
        response?.body.append(contentsOf: body)
    }

    /// Hands over the response.
    public func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        guard let response else { return end(.failure(.closed)) }
        end(.success(response))
    }

    /// Goes on to the next address, or hands over the failure.
    public func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        if error.isConnectFailure { tryNext(after: error) } else { end(.failure(error)) }
    }
}
