internal import Core
internal import Net
internal import Relay
internal import RequestPipeline

/// One request through the gateway: tells the session what happens and does what it says.
final class GatewayExchange {
    private let exchange: ServerExchange
    private let context: GatewayContext
    private let session: RequestSession
    private let relay: Relay
    private let visit: Visit?
    private var bodyDeadline: Timer?
    /// A question that must be answered before the decision.
    private var asking: BufferedRequest?
    /// Whom the response names as the one that served it; nil: nobody.
    private var revealed: Endpoint?

    init(_ exchange: ServerExchange, in context: GatewayContext, visit: Visit?) {
        self.exchange = exchange
        self.context = context
        self.visit = visit
        relay = Relay(to: exchange)
        session = RequestSession(
            router: context.router, method: exchange.head.method, path: exchange.head.path,
            headers: exchange.head.headers)
        relay.errorShape = session.errorShape
        if let visit { session.gate = { visit.reserve(promptTokens: $0) } }
        perform(session.begin(endOfBody: false))
    }

    private var client: HTTPClient { context.clients.client(on: exchange.loop) }

    private func perform(_ step: Step) {
        listen()
        switch step {
        case .more, .wait: break
        case .tokenize(let question): tokenize(question)
        case .consult(let question): consult(question)
        case .route(let decision): send(decision)
        case .answer(let response):
            exchange.respond(
                HTTPResponseHead(
                    status: response.status,
                    headers: [
                        "content-type": response.contentType, "x-request-id": session.requestID,
                    ]), text: response.body)
        case .reject(let error): reject(error)
        }
    }

    private func reject(_ error: APIError) {
        visit?.refused(error)
        relay.reject(error, requestID: session.requestID)
    }

    /// Comes back to this loop when flow control has decided about the request.
    private func listen() {
        guard let ticket = session.unheardTicket else { return }
        let this = WeakOnLoop(self, on: exchange.loop)
        ticket.listen { this.perform { $0.perform($0.session.signalled()) } }
    }

    private func tokenize(_ question: TokenizeRequest) {
        let head = HTTPRequestHead(
            method: "POST", target: question.path, headers: ["content-type": "application/json"])
        asking = BufferedRequest(
            head, to: question.engines, body: question.body, through: client,
            maximumResponseBytes: question.maximumResponseBytes, timeout: question.timeout
        ) { [unowned self] result in
            asking = nil
            perform(
                session.tokenized(
                    result.mapError { APIError(upstream: $0) }
                        .flatMap { TokenizeRequest.tokens(status: $0.status, body: $0.body) }))
        }
    }

    private func consult(_ question: ServiceQuestion) {
        asking = BufferedRequest(question, through: client) { [unowned self] outcome in
            asking = nil
            perform(session.consulted(outcome))
        }
    }

    private func send(_ decision: Decision) {
        if context.configuration.revealsEndpoints { revealed = decision.endpoint }
        visit?.routed(decision)
        var head = exchange.forwardedHead(requestID: decision.requestID)
        for name in RouterHeaders.owned(in: head.headers) { head.headers.remove(name) }
        if context.configuration.keys != nil, !context.configuration.forwardsAuthorization {
            for name in ["authorization", "x-api-key"] { head.headers.remove(name) }
        }
        head.headers.apply(decision.headers)
        relay.start(
            head, to: decision.endpoint.server.address, body: .bytes(session.body),
            through: client, observer: self)
    }
}

extension GatewayExchange: ServerExchangeDelegate {
    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        if bodyDeadline == nil, exchange.head.headers[first: "content-length"] != "\(body.count)" {
            bodyDeadline = exchange.loop.schedule(after: context.configuration.bodyTimeout) {
                [unowned self] in
                guard session.isReceiving else { return }
                session.completed(.clientGone)
                reject(.requestTimeout("The request body took too long."))
            }
        }
        perform(session.received(body))
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        bodyDeadline?.cancel()
        perform(session.receivedEnd())
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        relay.downstreamIsWritable()
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        bodyDeadline?.cancel()
        asking?.cancel()
        relay.cancel()
        // Counts only if nothing else ended the request before.
        session.completed(.clientGone)
        visit?.ended(session)
        context.admission.leave()
    }
}

extension GatewayExchange: RelayObserver {
    func relay(_ relay: Relay, willForward head: inout HTTPResponseHead) {
        // An engine's headers of such names go first: plugins may set some of their own.
        for name in RouterHeaders.owned(in: head.headers) { head.headers.remove(name) }
        head.headers.apply(session.responseStarted(status: head.status))
        if session.rewritesResponse { head.headers.remove("content-length") }
        head.headers.set("x-request-id", session.requestID)
        // Whom the router had in mind may have failed: the sidecar knows who did it.
        let prefill = head.headers[first: RouterHeaders.prefill]
            .flatMap { try? SocketAddress(parsing: $0) }
            .flatMap { context.router.endpoint(at: $0) }
        head.headers.remove(RouterHeaders.prefill)
        if let prefill { visit?.prefilled(by: prefill) }
        guard let revealed else { return }
        head.headers.set("x-llmd-decode", revealed.server.name)
        if let prefill { head.headers.set(RouterHeaders.prefill, prefill.server.name) }
    }

    func relay(_ relay: Relay, received body: UnsafeRawBufferPointer) {
        session.responseBody(body)
        if session.rewritesResponse {
            session.rewriteResponse(body) { relay.forward($0) }
        } else {
            relay.forward(body)
        }
    }

    func relay(_ relay: Relay, ended outcome: Relay.Outcome) {
        switch outcome {
        case .completed:
            session.finishResponse { relay.forward($0) }
            session.completed(.finished)
        case .broken(let error):
            let error = APIError(upstream: error)
            visit?.refused(error)
            session.completed(.failed(error))
        case .failed(let error, wasSeen: false) where !error.isOwnTrouble:
            perform(session.endpointFailed())
        case .failed(let error, _):
            let error = APIError(upstream: error)
            session.completed(.failed(error))
            reject(error.shaped(as: session.errorShape))
        }
    }
}

extension NetError {
    /// Whether the failure says nothing of the endpoint.
    fileprivate var isOwnTrouble: Bool { self == .tooManyFiles || self == .cancelled }
}
