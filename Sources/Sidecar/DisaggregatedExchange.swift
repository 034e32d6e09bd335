internal import Core
internal import Net
internal import Relay
internal import Scan
internal import Telemetry

/// A request whose prompt a prefill engine computes before the decode engine takes over.
final class DisaggregatedExchange {
    /// Names the prefillers of a request, the first choice first.
    static let header = "x-prefiller-host-port"

    private let exchange: ServerExchange
    private let api: GenerationAPI
    private let client: HTTPClient
    private let configuration: SidecarConfiguration
    private let metrics: SidecarMetrics
    private let relay: Relay
    private let requestID: String
    private var prefillers: [SocketAddress] = []
    /// Gathers the body; nil once that ended, for better or worse.
    private var scanner: JSONScanner?
    private var session: DisaggregationSession?
    private var prefill: BufferedRequest?
    private var deadline: MonotonicTime?
    private var rewriter: CachedTokensRewriter?

    init(
        _ exchange: ServerExchange, api: GenerationAPI, prefillers: [Substring],
        client: HTTPClient, configuration: SidecarConfiguration, metrics: SidecarMetrics
    ) {
        self.exchange = exchange
        self.api = api
        self.client = client
        self.configuration = configuration
        self.metrics = metrics
        relay = Relay(to: exchange)
        requestID = RequestID(header: exchange.head.headers[first: "x-request-id"]).text
        do throws(APIError) {
            self.prefillers = try prefillers.map { (text) throws(APIError) in
                try Self.prefiller(text, allowed: configuration.allowedPrefillers)
            }
            let length = exchange.head.headers[first: "content-length"].flatMap { Int($0) } ?? 0
            guard length <= configuration.maximumBodyBytes else {
                throw .tooLarge(limitBytes: configuration.maximumBodyBytes)
            }
            scanner = JSONScanner(expectedBytes: length)
        } catch {
            reject(error)
        }
    }

    /// Removes what the router told the sidecar, which is not for engines.
    static func removeRouting(from headers: inout HTTPHeaders) {
        for name in [header, "x-kv-cache-source-host-port", "x-encoder-hosts-ports"] {
            headers.remove(name)
        }
    }

    private static func prefiller(
        _ text: Substring, allowed: Set<String>?
    ) throws(APIError) -> SocketAddress {
        let text = text.filter { $0 != " " }
        guard let address = try? SocketAddress(parsing: text) else {
            throw .badRequest("The header \(header) holds '\(text)', which is no host and port.")
        }
        if let allowed, !allowed.contains(address.host), !allowed.contains(address.description) {
            throw APIError(
                status: 403, type: "Forbidden", message: "\(address) is no allowed prefiller.")
        }
        return address
    }

    private func reject(_ error: APIError) {
        scanner = nil
        exchange.respond(error, requestID: requestID)
    }

    private func perform(_ step: DisaggregationSession.Step) {
        switch step {
        case .prefill(let address, let body): askPrefiller(at: address, body)
        case .decode(let body, let cachedTokens): decode(body, cachedTokens: cachedTokens)
        }
    }

    private func head() -> HTTPRequestHead {
        var head = exchange.forwardedHead(requestID: requestID)
        Self.removeRouting(from: &head.headers)
        // Answers are read and changed on their way.
        head.headers.remove("accept-encoding")
        return head
    }

    private func askPrefiller(at address: SocketAddress, _ body: [UInt8]) {
        let deadline = self.deadline ?? .now + configuration.prefillTimeout
        self.deadline = deadline
        prefill = BufferedRequest(
            head(), to: [address], body: body, through: client,
            maximumResponseBytes: configuration.maximumPrefillResponseBytes,
            timeout: deadline - .now
        ) { [unowned self] result in
            prefill = nil
            prefillEnded(result)
        }
    }

    private func prefillEnded(_ result: Result<HTTPResponse, NetError>) {
        guard var session else { return }
        let step: DisaggregationSession.Step? =
            switch result {
            case .success(let response):
                session.prefillAnswered(status: response.status, body: response.body)
            case .failure(.timeout(.deadline)): session.prefillFailed(.deadline)
            case .failure(.bodyTooLarge): session.prefillFailed(.body)
            case .failure: session.prefillFailed(.connection)
            }
        self.session = session
        if session.outcome != nil { metrics.count(session) }
        if let step {
            perform(step)
        } else if case .success(var response) = result {
            response.head.headers.removeHopByHop()
            exchange.respond(response.head, body: response.body)
        }
    }

    private func decode(_ body: [UInt8], cachedTokens: Int?) {
        rewriter = cachedTokens.map { CachedTokensRewriter(cachedTokens: $0) }
        relay.start(
            head(), to: configuration.engine, body: .bytes(body), through: client,
            observer: self)
    }
}

extension DisaggregatedExchange: ServerExchangeDelegate {
    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        guard let scanner else { return }
        guard scanner.bytes.count + body.count <= configuration.maximumBodyBytes else {
            return reject(.tooLarge(limitBytes: configuration.maximumBodyBytes))
        }
        do {
            try scanner.feed(body)
        } catch {
            reject(.badRequest("The body is not JSON: \(error)."))
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        guard let scanner else { return }
        self.scanner = nil
        do throws(APIError) {
            let request: JSONDocument
            do throws(ScanError) {
                request = try scanner.finish()
            } catch {
                throw .badRequest("The body is not JSON: \(error).")
            }
            var session = try DisaggregationSession(request, api: api, prefillers: prefillers)
            let step = session.start()
            self.session = session
            perform(step)
        } catch {
            reject(error)
        }
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        relay.downstreamIsWritable()
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        prefill?.cancel()
        relay.cancel()
    }
}

extension DisaggregatedExchange: RelayObserver {
    func relay(_ relay: Relay, willForward head: inout HTTPResponseHead) {
        if configuration.revealsPrefiller, let prefiller = session?.prefilledBy {
            head.headers.set(RouterHeaders.prefill, prefiller.description)
        }
        guard head.status == 200 else {
            rewriter = nil
            return
        }
        // The number may get longer or shorter.
        if rewriter != nil { head.headers.remove("content-length") }
    }

    func relay(_ relay: Relay, received body: UnsafeRawBufferPointer) {
        guard rewriter != nil else { return relay.forward(body) }
        rewriter?.rewrite(body) { relay.forward($0) }
    }

    func relay(_ relay: Relay, ended outcome: Relay.Outcome) {
        if case .failed(let error, _) = outcome {
            exchange.respond(APIError(decodeEngine: error), requestID: requestID)
        }
    }
}
