public import Core
public import ModelServers
public import Net
internal import Relay
public import Telemetry

/// How an index is served.
public struct IndexerConfiguration: Sendable {
    /// Where gRPC and HTTP clients connect.
    public var address: SocketAddress
    /// TLS of the address; nil: plain.
    public var tls: TLSServerContext?
    /// Who is asked for the tokens of prompts; nil: the engines of the pool.
    public var tokenizer: SocketAddress?
    /// How long the tokens of a prompt may take.
    public var tokenizeTimeout = Duration.seconds(5)
    /// How many prompts may wait for their tokens; more are refused.
    public var maximumTokenizations = 256
    /// The longest request.
    public var maximumBodyBytes = 16 << 20
    /// Whether engines can register over HTTP.
    public var allowsRegistration = true

    /// Makes a configuration with the defaults above.
    public init(address: SocketAddress) {
        self.address = address
    }
}

/// An index as a service of its own: llm-d's `indexer.v1.IndexerService`, `/query`, `/register`
/// and `/unregister` of Mooncake's conductor, and `grpc.health.v1.Health`, all on one port.
/// Any thread.
public final class IndexerServer: Sendable {
    /// Where it listens, with the real port.
    public var address: SocketAddress { server.address }

    private let server: HTTPServer
    private let clients: HTTPClientGroup

    private init(server: HTTPServer, clients: HTTPClientGroup) {
        self.server = server
        self.clients = clients
    }

    /// Starts to serve on the loops of a group; not on one of them.
    ///
    /// - Parameter pool: The engines that can be asked for tokens.
    public static func start(
        on group: EventLoopGroup, lookup: PrefixLookup, engines: EngineDirectory,
        pool: EndpointPool, configuration: IndexerConfiguration, metrics: MetricsRegistry
    ) throws(NetError) -> IndexerServer {
        var client = HTTPClientConfiguration.modelServers
        // There are other engines, and not much time.
        client.connectTimeout = .seconds(1)
        let clients = HTTPClientGroup(on: group, configuration: client)
        let service = Service(
            lookup: lookup, engines: engines,
            tokenizer: PromptTokenizer(
                server: configuration.tokenizer, pool: pool, clients: clients,
                timeout: configuration.tokenizeTimeout,
                limit: configuration.maximumTokenizations),
            metrics: IndexerMetrics(metrics), configuration: configuration)
        let server = try HTTPServer.listen(
            on: group, at: configuration.address,
            configuration: HTTPServerConfiguration(tls: configuration.tls)
        ) { service.handle($0) }
        return IndexerServer(server: server, clients: clients)
    }

    /// Takes no new request, waits for the running ones and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        await server.drain(within: deadline)
        clients.shutdown()
    }
}

/// Who answers the requests. Any thread.
private final class Service: Sendable {
    private static let podScores = "/indexer.v1.IndexerService/GetPodScores"
    /// A server that drains takes no connection to be asked on.
    private static let health = GRPCHealthService(
        services: ["indexer.v1.IndexerService"], isReady: { true })

    private let lookup: PrefixLookup
    private let engines: EngineDirectory
    private let tokenizer: PromptTokenizer
    private let metrics: IndexerMetrics
    private let configuration: IndexerConfiguration

    init(
        lookup: PrefixLookup, engines: EngineDirectory, tokenizer: PromptTokenizer,
        metrics: IndexerMetrics, configuration: IndexerConfiguration
    ) {
        self.lookup = lookup
        self.engines = engines
        self.tokenizer = tokenizer
        self.metrics = metrics
        self.configuration = configuration
    }

    func handle(_ exchange: ServerExchange) -> any ServerExchangeDelegate {
        let contentType = exchange.head.headers[first: "content-type"] ?? ""
        return contentType.hasPrefix("application/grpc") ? call(exchange) : request(exchange)
    }

    // MARK: - gRPC

    private func call(_ exchange: ServerExchange) -> any ServerExchangeDelegate {
        let began = MonotonicTime.now
        guard exchange.head.target == Self.podScores else {
            let delegate = Self.health.handle(exchange)
            observe(delegate as? GRPCUnaryCall, .health, since: began)
            return delegate
        }
        let call = GRPCUnaryCall(
            exchange, maximumMessageBytes: configuration.maximumBodyBytes
        ) { [self] in answer($0, $1) }
        observe(call, .podScores, since: began)
        return call
    }

    private func observe(
        _ call: GRPCUnaryCall?, _ method: IndexerMetrics.Method, since began: MonotonicTime
    ) {
        guard let call else { return metrics.answered(.other, code: 12, since: began) }
        call.whenEnded = { [metrics] in metrics.answered(method, code: $0.code, since: began) }
    }

    private func answer(_ call: GRPCUnaryCall, _ message: UnsafeRawBufferPointer) {
        let request: PodScoresRequest
        do {
            request = try PodScoresRequest(decoding: message)
        } catch {
            return call.fail(.invalidArgument(error.description))
        }
        guard !request.prompt.isEmpty else { return call.fail(.invalidArgument("no prompt")) }
        guard !request.model.isEmpty else { return call.fail(.invalidArgument("no model_name")) }
        do {
            let tokenization = try tokenizer.start(
                request.prompt, model: request.model, on: call.exchange.loop
            ) { [lookup] result in
                switch result {
                case .success(let tokens):
                    let scores = lookup.scores(
                        of: tokens, model: request.model, pods: request.pods)
                    call.respond { $0.scores(scores) }
                case .failure(let status): call.fail(status)
                }
            }
            call.whenCancelled = { tokenization.cancel() }
        } catch {
            call.fail(error)
        }
    }

    // MARK: - HTTP

    private func request(_ exchange: ServerExchange) -> any ServerExchangeDelegate {
        let began = MonotonicTime.now
        let (method, answer) = route(exchange.head.path)
        let request = JSONRequest(exchange, maximumBytes: configuration.maximumBodyBytes) {
            [metrics] in metrics.answered(method, code: $0, since: began)
        }
        guard let answer else {
            request.fail(IndexerError(.notFound, "there is nothing at \(exchange.head.path)"))
            return request
        }
        request.begin(answer)
        return request
    }

    private func route(
        _ path: Substring
    ) -> (method: IndexerMetrics.Method, answer: JSONRequest.Answer?) {
        let blockSize = lookup.blockSize
        switch path {
        case "/query":
            return (
                .query,
                { [lookup] (document, json) throws(IndexerError) in
                    let query = try PrefixQuery(document, blockSize: blockSize)
                    json.answer(lookup.matches(for: query))
                }
            )
        case "/register" where configuration.allowsRegistration:
            return (
                .register,
                { [engines] (document, json) throws(IndexerError) in
                    let registration = try EngineRegistration(document, blockSize: blockSize)
                    try engines.register(registration)
                    json.registered(registration.instance)
                }
            )
        case "/unregister" where configuration.allowsRegistration:
            return (
                .unregister,
                { [engines] (document, json) throws(IndexerError) in
                    json.unregistered(
                        try engines.unregister(try EngineUnregistration(document)))
                }
            )
        default: return (.other, nil)
        }
    }
}
