internal import Net
internal import Relay

/// `grpc.health.v1.Health/Check`, which Kubernetes and gateways ask.
struct HealthService: Sendable {
    private let isReady: @Sendable () -> Bool

    init(isReady: @escaping @Sendable () -> Bool) {
        self.isReady = isReady
    }

    func handle(_ exchange: ServerExchange) -> (any ServerExchangeDelegate)? {
        guard exchange.head.target == "/grpc.health.v1.Health/Check" else {
            exchange.refuseGRPC(.unimplemented("no method \(exchange.head.target)"))
            return AnsweredExchange()
        }
        return HealthCheck(answer: answer)
    }

    /// Whether a service works; nil for one that is not known. The empty name asks for the whole.
    private func answer(_ service: String) -> Bool? {
        switch service {
        case "liveness": true
        case "", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor": isReady()
        default: nil
        }
    }
}

/// One question for health.
private final class HealthCheck: ServerExchangeDelegate {
    private let answer: (String) -> Bool?
    private var reader = GRPCFrameReader(maximumMessageBytes: 4096)
    private var service: String?

    init(answer: @escaping (String) -> Bool?) {
        self.answer = answer
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        // A fault leaves `service` unset, which the end reports.
        try? reader.feed(body) { service = try? Self.service(in: $0) }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        guard let service else {
            return exchange.refuseGRPC(.invalidArgument("no HealthCheckRequest"))
        }
        guard let isServing = answer(service) else {
            return exchange.refuseGRPC(.notFound("no service \(service)"))
        }
        var response = ProtobufWriter()
        // HealthCheckResponse{status=1}: SERVING is 1, NOT_SERVING 2.
        response.frame { $0.unsigned(1, isServing ? 1 : 2) }
        exchange.respondGRPC()
        exchange.write(response.bytes)
        exchange.finishGRPC(.ok)
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
