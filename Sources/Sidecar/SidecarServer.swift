public import Core
public import Net
internal import Relay
public import Telemetry

/// The proxy beside a decode engine that has prompts computed by a prefill engine first, where the
/// router asks for that (header `x-prefiller-host-port`). Everything else passes through. Any
/// thread.
public final class SidecarServer: Sendable {
    /// Where requests come in, with the real port.
    public var address: SocketAddress { server.address }

    private let server: HTTPServer
    private let clients: HTTPClientGroup

    private init(server: HTTPServer, clients: HTTPClientGroup) {
        self.server = server
        self.clients = clients
    }

    /// Starts to serve on the loops of a group; not on one of them.
    public static func start(
        on group: EventLoopGroup, configuration: SidecarConfiguration, metrics: MetricsRegistry
    ) throws(NetError) -> SidecarServer {
        let clients = HTTPClientGroup(on: group, configuration: configuration.client)
        let metrics = SidecarMetrics(metrics)
        let server = try HTTPServer.listen(
            on: group, at: configuration.address, configuration: configuration.server
        ) { exchange in
            if exchange.head.path == "/health" { return AnsweredExchange.healthy(exchange) }
            let client = clients.client(on: exchange.loop)
            let prefillers = exchange.head.headers.values(of: DisaggregatedExchange.header)
                .flatMap { $0.split(separator: ",") }
            guard !prefillers.isEmpty, exchange.head.method == "POST",
                let api = GenerationAPI(rawValue: String(exchange.head.path))
            else {
                metrics.decodeOnly.increment()
                return PassingExchange(exchange, engine: configuration.engine, client: client)
            }
            return DisaggregatedExchange(
                exchange, api: api, prefillers: prefillers, client: client,
                configuration: configuration, metrics: metrics)
        }
        return SidecarServer(server: server, clients: clients)
    }

    /// Takes no new request, waits for the running ones and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        await server.drain(within: deadline)
        clients.shutdown()
    }
}

/// What the sidecar counts.
struct SidecarMetrics: Sendable {
    /// Requests that passed through.
    let decodeOnly: Counter
    private let outcomes: Family<Counter>
    private let failures: Family<Counter>

    init(_ registry: MetricsRegistry) {
        outcomes = registry.counters(
            "llmd_sidecar_requests_total", "Requests by how they were served.",
            labels: ["outcome"])
        failures = registry.counters(
            "llmd_sidecar_prefill_failures_total",
            "Prefillers that were asked in vain, by what went wrong.", labels: ["reason"])
        decodeOnly = outcomes.child("decode_only")
        for outcome in DisaggregationSession.Outcome.allCases {
            _ = outcomes.child(outcome.rawValue)
        }
        for failure in PrefillFailure.allCases { _ = failures.child(failure.rawValue) }
    }

    /// Counts a request that has got its last step.
    func count(_ session: DisaggregationSession) {
        if let outcome = session.outcome { outcomes.child(outcome.rawValue).increment() }
        for failure in session.failures { failures.child(failure.rawValue).increment() }
    }
}
