public import Core
public import Net
internal import Relay
public import RequestPipeline
internal import Synchronization
public import Telemetry

/// How the endpoint picker serves the data plane.
public struct ExtProcConfiguration: Sendable {
    /// Where the data plane connects.
    public var address: SocketAddress
    /// Where `grpc.health.v1.Health` answers, without TLS; nil: nowhere.
    public var healthAddress: SocketAddress?
    /// TLS of the first address; nil: none. Gateways do not verify the certificate.
    public var tls: TLSServerContext?
    /// Whether to pick from the whole pool whatever subset the data plane hints at.
    public var ignoresSubsetHint = false
    /// How engines are asked for the tokens of a prompt.
    public var client = HTTPClientConfiguration()

    /// Makes a configuration with the defaults above.
    public init(address: SocketAddress, healthAddress: SocketAddress? = nil) {
        self.address = address
        self.healthAddress = healthAddress
    }
}

/// The endpoint picker as an external processor of Envoy and of any gateway that speaks its
/// protocol (`envoy.service.ext_proc.v3.ExternalProcessor`). Any thread.
public final class ExtProcServer: Sendable {
    /// Where the data plane connects, with the real port.
    public var address: SocketAddress { server.address }
    /// Where health is asked for, with the real port.
    public var healthAddress: SocketAddress? { healthServer?.address }

    private let server: HTTPServer
    private let healthServer: HTTPServer?
    private let clients: HTTPClientGroup
    private let isDraining: DrainFlag
    private let router: Router

    private init(
        server: HTTPServer, healthServer: HTTPServer?, clients: HTTPClientGroup,
        isDraining: DrainFlag, router: Router
    ) {
        self.router = router
        self.server = server
        self.healthServer = healthServer
        self.clients = clients
        self.isDraining = isDraining
    }

    /// Starts to serve on the loops of a group; not on one of them.
    ///
    /// - Parameter isReady: Whether the pool is known; the health service's answer.
    public static func start(
        on group: EventLoopGroup, router: Router, configuration: ExtProcConfiguration,
        metrics: MetricsRegistry, isReady: @escaping @Sendable () -> Bool
    ) throws(NetError) -> ExtProcServer {
        let clients = HTTPClientGroup(on: group, configuration: configuration.client)
        let isDraining = DrainFlag()
        var healthServer: HTTPServer?
        if let address = configuration.healthAddress {
            let health = GRPCHealthService(
                services: ["envoy.service.ext_proc.v3.ExternalProcessor"]
            ) { isReady() && !isDraining.isSet }
            healthServer = try .listen(on: group, at: address) { health.handle($0) }
        }
        let streamMetrics = StreamMetrics(metrics)
        let resources = group.loops.map { LoopResources(client: clients.client(on: $0)) }
        let server = try HTTPServer.listen(
            on: group, at: configuration.address,
            configuration: .externalProcessor(tls: configuration.tls)
        ) { exchange in
            guard exchange.head.target == "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
            else {
                exchange.refuseGRPC(.unimplemented("no method \(exchange.head.target)"))
                return AnsweredExchange()
            }
            guard let loop = resources.first(where: { $0.client.loop === exchange.loop }) else {
                return nil
            }
            let session = ExtProcSession(
                router: router, ignoresSubset: configuration.ignoresSubsetHint)
            return ExtProcStream(
                exchange, session: session, loop: loop,
                maximumMessageBytes: router.configuration.maximumBodyBytes, metrics: streamMetrics)
        }
        return ExtProcServer(
            server: server, healthServer: healthServer, clients: clients, isDraining: isDraining,
            router: router)
    }

    /// Reports not ready, takes no new stream, refuses the requests that wait for their turn,
    /// waits for the open ones and aborts what is left after `deadline`.
    public func drain(within deadline: Duration) async {
        isDraining.set()
        router.flow.shutdown()
        await server.drain(within: deadline)
        await healthServer?.drain(within: .zero)
        clients.shutdown()
    }
}

extension HTTPServerConfiguration {
    /// A few connections from trusted proxies, each with many streams that may wait long for an
    /// engine's next token.
    fileprivate static func externalProcessor(tls: TLSServerContext?) -> HTTPServerConfiguration {
        var configuration = HTTPServerConfiguration(tls: tls)
        configuration.http2MaximumStreams = 10_000
        configuration.idleTimeout = .seconds(3600)
        // Envoy resets nearly every stream of its external processors.
        configuration.http2ResetRateLimit = (burst: .max, perSecond: .max)
        return configuration
    }
}

/// Whether the server is on its way out.
private final class DrainFlag: Sendable {
    private let flag = Atomic<Bool>(false)

    var isSet: Bool { flag.load(ordering: .relaxed) }

    func set() { flag.store(true, ordering: .relaxed) }
}
