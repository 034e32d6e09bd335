/// `grpc.health.v1.Health/Check`, which Kubernetes and gateways ask. Any thread.
public struct GRPCHealthService: Sendable {
    /// The target of its requests.
    public static let path = "/grpc.health.v1.Health/Check"

    private let services: Set<String>
    private let isReady: @Sendable () -> Bool

    /// The health of a server that offers `services`. The empty name asks for the whole server,
    /// as `readiness` does; `liveness` is well whenever it answers.
    public init(services: Set<String>, isReady: @escaping @Sendable () -> Bool) {
        self.services = services
        self.isReady = isReady
    }

    /// Answers a request; methods other than `Check` are unimplemented.
    public func handle(_ exchange: ServerExchange) -> any ServerExchangeDelegate {
        guard exchange.head.target == Self.path else {
            exchange.refuseGRPC(.unimplemented("no method \(exchange.head.target)"))
            return AnsweredExchange()
        }
        return GRPCUnaryCall(exchange, maximumMessageBytes: 4096) { call, message in
            guard let service = try? Self.service(in: message) else {
                return call.fail(.invalidArgument("no HealthCheckRequest"))
            }
            guard let isServing = answer(service) else {
                return call.fail(.notFound("no service \(service)"))
            }
            // HealthCheckResponse{status=1}: SERVING is 1, NOT_SERVING 2.
            call.respond { $0.unsigned(1, isServing ? 1 : 2) }
        }
    }

    /// Whether a service works; nil for one that is not known.
    private func answer(_ service: String) -> Bool? {
        switch service {
        case "liveness": true
        case "", "readiness": isReady()
        default: services.contains(service) ? isReady() : nil
        }
    }

    /// HealthCheckRequest{service=1}.
    private static func service(
        in message: UnsafeRawBufferPointer
    ) throws(ProtobufError) -> String {
        var service = ""
        var reader = ProtobufReader(message)
        while let field = try reader.next() {
            if case (1, .bytes(let name)) = (field.number, field.value) {
                service = String(decoding: name, as: UTF8.self)
            }
        }
        return service
    }
}
