internal import Core
internal import Telemetry

/// What `/metrics` shows of the requests, by method and by gRPC or HTTP status.
struct IndexerMetrics: Sendable {
    /// What can be asked for; the value of the label.
    enum Method: String {
        case podScores = "GetPodScores"
        case query
        case register
        case unregister
        case health
        case other
    }

    private let requests: Family<Counter>
    private let duration: Family<Histogram>

    init(_ registry: MetricsRegistry) {
        requests = registry.counters(
            "llmd_indexer_requests_total", "Requests by method and gRPC or HTTP status.",
            labels: ["method", "code"])
        duration = registry.histograms(
            "llmd_indexer_request_duration_seconds",
            "From a request's head to its answer, by method and gRPC or HTTP status.",
            labels: ["method", "code"],
            bounds: Buckets.exponential(from: 0.0001, factor: 2, count: 17))
    }

    func answered(_ method: Method, code: Int, since began: MonotonicTime) {
        let labels = [method.rawValue, String(code)]
        requests.child(labels).increment()
        duration.child(labels).observe(.now - began)
    }
}
