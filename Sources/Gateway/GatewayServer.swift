public import Core
public import Net
internal import Relay
public import RequestPipeline
internal import Synchronization
public import Telemetry

/// A reverse proxy for the OpenAI API that decides with the same router as the endpoint picker.
/// Any thread.
public final class GatewayServer: Sendable {
    /// Where clients connect, with the real port.
    public var address: SocketAddress { server.address }

    private let server: HTTPServer
    private let context: GatewayContext

    private init(_ server: HTTPServer, _ context: GatewayContext) {
        self.server = server
        self.context = context
    }

    /// Starts to serve on the loops of a group; not on one of them.
    public static func start(
        on group: EventLoopGroup, router: Router, configuration: GatewayConfiguration,
        metrics: MetricsRegistry
    ) throws(NetError) -> GatewayServer {
        let context = GatewayContext(group, router, configuration, metrics)
        let server = try HTTPServer.listen(
            on: group, at: configuration.address, configuration: configuration.server
        ) { exchange in
            if exchange.head.path == "/health" { return AnsweredExchange.healthy(exchange) }
            let visit = context.door.open(exchange)
            if let answered = visit?.answer(exchange) { return answered }
            guard context.admission.enter() else { return Admission.refuse(exchange, visit) }
            return GatewayExchange(exchange, in: context, visit: visit)
        }
        return GatewayServer(server, context)
    }

    /// Takes no new request, refuses those that wait for their turn, waits for the running ones
    /// and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        context.router.flow.shutdown()
        await server.drain(within: deadline)
        context.clients.shutdown()
    }
}

/// What all requests of a gateway share: one reference, where each request would copy the parts.
/// Any thread.
final class GatewayContext: Sendable {
    let router: Router
    let configuration: GatewayConfiguration
    let clients: HTTPClientGroup
    let door: FrontDoor
    let admission: Admission

    init(
        _ group: EventLoopGroup, _ router: Router, _ configuration: GatewayConfiguration,
        _ metrics: MetricsRegistry
    ) {
        self.router = router
        self.configuration = configuration
        clients = HTTPClientGroup(on: group, configuration: configuration.client)
        door = FrontDoor(configuration, metrics)
        admission = Admission(limit: configuration.maximumConcurrentRequests, metrics)
    }
}

/// Bounds the requests that are served at once. Any thread.
final class Admission: Sendable {
    private let limit: Int
    private let count = Atomic<Int>(0)
    private let inFlight: Gauge
    private let refused: Counter

    init(limit: Int, _ registry: MetricsRegistry) {
        self.limit = limit
        inFlight = registry.gauge(
            "llmd_gateway_requests_in_flight", "Requests that the gateway serves now.")
        refused = registry.counter(
            "llmd_gateway_requests_refused_total",
            "Requests refused because too many were served at once.")
    }

    /// Takes a place; false if there is none.
    func enter() -> Bool {
        guard count.add(1, ordering: .relaxed).newValue <= limit else {
            count.subtract(1, ordering: .relaxed)
            refused.increment()
            return false
        }
        inFlight.increment()
        return true
    }

    /// Gives a place back.
    func leave() {
        count.subtract(1, ordering: .relaxed)
        inFlight.decrement()
    }

    /// Answers a request beyond the limit.
    static func refuse(_ exchange: ServerExchange, _ visit: Visit?) -> AnsweredExchange {
        let id = RequestID(header: exchange.head.headers[first: "x-request-id"])
        let error = APIError(
            status: 503, type: "ServiceUnavailable",
            message: "Too many requests are served at the moment.",
            headers: [.init("retry-after", "1")])
        visit?.refused(error)
        exchange.respond(
            error.shaped(as: APIError.Shape(path: exchange.head.path)), requestID: id.text)
        return AnsweredExchange()
    }
}
