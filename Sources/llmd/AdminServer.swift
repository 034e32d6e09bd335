import Core
import Net
import Telemetry

/// The port for operators: `/metrics` and `/health`.
enum AdminServer {
    static func listen(
        on group: EventLoopGroup, at address: SocketAddress, metrics: MetricsRegistry
    ) throws(NetError) -> HTTPServer {
        try HTTPServer.listen(on: group, at: address) { exchange in
            let path = exchange.head.path
            guard exchange.head.method == "GET" else { return nil }
            if path == "/metrics" {
                var headers = HTTPHeaders()
                headers.append("content-type", MetricsRegistry.contentType)
                metrics.exposition().withUnsafeBytes { page in
                    exchange.respond(HTTPResponseHead(status: 200, headers: headers), body: page)
                }
            } else if path == "/health" {
                exchange.respond(
                    HTTPResponseHead(status: 200),
                    body: UnsafeRawBufferPointer(start: nil, count: 0))
            } else {
                return nil
            }
            return AnsweredExchange()
        }
    }
}
