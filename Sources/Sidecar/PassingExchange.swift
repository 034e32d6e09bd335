internal import Core
internal import Net
internal import Relay
internal import Telemetry

/// A request that goes to the decode engine as it is, its body as it comes.
final class PassingExchange {
    private let exchange: ServerExchange
    private let engine: SocketAddress
    private let client: HTTPClient
    private let relay: Relay
    private let requestID: String
    private var isStarted = false

    init(_ exchange: ServerExchange, engine: SocketAddress, client: HTTPClient) {
        self.exchange = exchange
        self.engine = engine
        self.client = client
        relay = Relay(to: exchange)
        requestID = RequestID(header: exchange.head.headers[first: "x-request-id"]).text
    }

    private func start(_ body: RequestBody) {
        isStarted = true
        var head = exchange.forwardedHead(requestID: requestID)
        DisaggregatedExchange.removeRouting(from: &head.headers)
        relay.start(head, to: engine, body: body, through: client, observer: self)
    }
}

extension PassingExchange: ServerExchangeDelegate {
    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        if !isStarted {
            let length = exchange.head.headers[first: "content-length"].flatMap { Int($0) }
            start(.stream(length: length))
        }
        relay.send(body)
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        if isStarted { relay.sendEnd() } else { start(.none) }
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        relay.downstreamIsWritable()
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        relay.cancel()
    }
}

extension PassingExchange: RelayObserver {
    func relay(_ relay: Relay, willForward head: inout HTTPResponseHead) {}

    func relay(_ relay: Relay, received body: UnsafeRawBufferPointer) {
        relay.forward(body)
    }

    func relay(_ relay: Relay, ended outcome: Relay.Outcome) {
        if case .failed(let error, _) = outcome {
            exchange.respond(APIError(decodeEngine: error), requestID: requestID)
        }
    }
}

extension APIError {
    /// What a client is told when the decode engine failed: 503 if it cannot be reached, so that
    /// a proxy may go elsewhere, else as of any upstream.
    init(decodeEngine error: NetError) {
        self =
            if error.isConnectFailure {
                APIError(
                    status: 503, type: "ServiceUnavailable",
                    message: "The decode engine cannot be reached: \(error).")
            } else {
                APIError(upstream: error)
            }
    }
}
