import Core
import KVIndexIO
import Net
import Telemetry

/// The port for operators: `/metrics`, `/health`, and `/debug/kv-events` where there is an index.
enum AdminServer {
    static func listen(
        on group: EventLoopGroup, at address: SocketAddress, metrics: MetricsRegistry,
        kvEvents: KVEventSource? = nil
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
            } else if path == "/debug/kv-events", let kvEvents {
                exchange.respond(
                    HTTPResponseHead(status: 200, headers: ["content-type": "application/json"]),
                    body: KVEngineState.json(kvEvents.engines))
            } else {
                return nil
            }
            return AnsweredExchange()
        }
    }
}
