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
    private let clients: HTTPClientGroup
    private let router: Router

    private init(server: HTTPServer, clients: HTTPClientGroup, router: Router) {
        self.server = server
        self.clients = clients
        self.router = router
    }

    /// Starts to serve on the loops of a group; not on one of them.
    public static func start(
        on group: EventLoopGroup, router: Router, configuration: GatewayConfiguration,
        metrics: MetricsRegistry
    ) throws(NetError) -> GatewayServer {
        let clients = HTTPClientGroup(on: group, configuration: configuration.client)
        let door = FrontDoor(configuration, metrics)
        let admission = Admission(limit: configuration.maximumConcurrentRequests, metrics)
        let server = try HTTPServer.listen(
            on: group, at: configuration.address, configuration: configuration.server
        ) { exchange in
            if exchange.head.path == "/health" { return AnsweredExchange.healthy(exchange) }
            let visit = door.open(exchange)
            if let answered = visit?.answer(exchange) { return answered }
            guard admission.enter() else { return Admission.refuse(exchange, visit) }
            return GatewayExchange(
                exchange, router: router, client: clients.client(on: exchange.loop),
                configuration: configuration, admission: admission, visit: visit)
        }
        return GatewayServer(server: server, clients: clients, router: router)
    }

    /// Takes no new request, refuses those that wait for their turn, waits for the running ones
    /// and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        router.flow.shutdown()
        await server.drain(within: deadline)
        clients.shutdown()
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
