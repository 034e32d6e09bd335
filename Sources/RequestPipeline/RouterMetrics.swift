import Core
public import ModelServers
import Scheduling
import Synchronization
public import Telemetry

/// The router's metrics, by the names of the upstream endpoint picker. Any thread.
public final class RouterMetrics: Sendable {
    /// Prompts whose token ids no engine told.
    let tokenizeFailures: Counter
    /// Questions to services that went without a good answer.
    let consultFailures: Counter

    private static let maximumNameBytes = 256

    private let scheduling: Histogram
    private let hitRatio: Histogram
    private let families: ModelMetrics.Families
    private let rewrites: Family<Counter>
    private let models = Mutex<[ModelMetrics.Key: ModelMetrics]>([:])

    /// Registers the metrics. Those of the endpoints are read from `pool`, which has the `name`.
    public init(registry: MetricsRegistry, pool: EndpointPool, poolName: String) {
        tokenizeFailures = registry.counter(
            "llmd_router_tokenize_failures_total",
            "Text prompts that were routed without prefix matching for want of their token ids.")
        consultFailures = registry.counter(
            "llmd_router_consult_failures_total",
            "Requests that were decided without the answer of a service that was asked.")
        scheduling = registry.histogram(
            "llm_d_epp_scheduler_e2e_duration_seconds",
            "Time from a parsed request to a decision.", bounds: Buckets.schedulingSeconds)
        hitRatio = registry.histogram(
            "llm_d_epp_prefix_indexer_hit_ratio",
            "Part of the prompt's blocks that the chosen endpoint holds.",
            bounds: (0...10).map { Double($0) / 10 })
        rewrites = registry.counters(
            "llm_d_epp_model_rewrite_decisions_total", "Requests whose model a rewrite gave.",
            labels: ["model_rewrite_name", "model_name", "target_model"])
        families = ModelMetrics.Families(registry)
        Self.registerPool(registry, pool, poolName)
    }

    /// The metrics of requests like this one: of its model and its flow.
    func model(of request: SchedulingRequest) -> ModelMetrics {
        model(
            request.model, target: request.targetModel, fairnessID: request.fairnessID,
            priority: request.priority)
    }

    /// The metrics of requests of which only the model is known, if that.
    func model(_ name: String) -> ModelMetrics {
        model(name, target: name, fairnessID: SchedulingRequest.defaultFairnessID, priority: 0)
    }

    private func model(
        _ name: String, target: String, fairnessID: String, priority: Int
    ) -> ModelMetrics {
        let key = ModelMetrics.Key(
            model: Self.bounded(name), target: Self.bounded(target),
            fairnessID: Self.bounded(fairnessID), priority: priority)
        return models.withLock { models in
            if let metrics = models[key] { return metrics }
            let metrics = ModelMetrics(families, key)
            // Beyond the limit of label sets names share one series, and need not be kept.
            if models.count < MetricsRegistry.defaultLimit { models[key] = metrics }
            return metrics
        }
    }

    /// A rule gave a request its model.
    func rewrote(_ model: String, by decision: ModelRewriter.Decision) {
        rewrites.child(decision.rewrite, Self.bounded(model), decision.target).increment()
    }

    /// A name that a client may have made up, and that is kept.
    private static func bounded(_ name: String) -> String {
        name.utf8.count <= maximumNameBytes ? name : "other"
    }

    /// A decision was made.
    func decided(
        _ result: SchedulingResult, in context: SchedulingContext, model: ModelMetrics?,
        took: Duration
    ) {
        scheduling.observe(took)
        guard let model else { return }
        let stages = result.prefill.isEmpty ? model.decodeOnly : model.prefillDecode
        stages.increment()
        guard let match = context.prefixMatches.first, match.totalBlocks > 0 else { return }
        let held = match.matchedBlocks[(result.prefill.first ?? result.primary[0]).index]
        hitRatio.observe(Double(held) / Double(match.totalBlocks))
    }

    private static func registerPool(
        _ registry: MetricsRegistry, _ pool: EndpointPool, _ name: String
    ) {
        registry.gauges(
            "llm_d_epp_ready_endpoints", "Endpoints that take requests.", labels: ["name"]
        ) {
            [([name], Double(pool.snapshot.members.count(where: \.isHealthy)))]
        }
        registry.gauges(
            "llm_d_epp_per_endpoint_queue_size", "Waiting requests by endpoint.",
            labels: ["name", "model_server_endpoint"]
        ) {
            pool.snapshot.members.map {
                ([name, $0.endpoint.server.name], Double($0.load.waitingCount))
            }
        }
        let inFlight: [(String, String, @Sendable (PoolMember) -> Int)] = [
            ("requests", "Requests of this router at an endpoint.", { $0.inFlightCount }),
            (
                "tokens", "Prompt tokens that an endpoint has yet to compute for this router.",
                { $0.prefillTokensInFlight }
            ),
        ]
        for (unit, help, read) in inFlight {
            registry.gauges("llm_d_epp_inflight_\(unit)", help, labels: ["endpoint_name"]) {
                pool.snapshot.members.map { ([$0.endpoint.server.name], Double(read($0))) }
            }
        }
        registry.gauges(
            "llmd_endpoint_circuit_open",
            "1 from the failures that open an endpoint's circuit to the answer that closes it.",
            labels: ["name", "model_server_endpoint"]
        ) {
            pool.snapshot.members.map {
                ([name, $0.endpoint.server.name], $0.hasOpenCircuit ? 1 : 0)
            }
        }
        let averages: [(String, String, @Sendable (ServerLoad) -> Double)] = [
            ("queue_size", "waiting requests", { Double($0.waitingCount) }),
            ("running_requests", "running requests", { Double($0.runningCount) }),
            ("kv_cache_utilization", "use of the KV cache, 0 to 1", { $0.kvUsage }),
        ]
        for (metric, text, read) in averages {
            registry.gauges(
                "llm_d_epp_average_\(metric)", "Mean over the endpoints of \(text).",
                labels: ["name"]
            ) {
                let loads = pool.snapshot.members.map(\.load)
                guard !loads.isEmpty else { return [] }
                return [([name], loads.map(read).reduce(0, +) / Double(loads.count))]
            }
        }
    }
}

/// The metrics of requests for one model by one flow.
final class ModelMetrics: Sendable {
    /// What they have in common.
    struct Key: Hashable {
        var model: String
        var target: String
        var fairnessID: String
        var priority: Int
    }

    static let labels = ["model_name", "target_model_name", "fairness_id", "priority"]

    /// What the metrics of all models are taken from.
    struct Families: Sendable {
        let requests: Family<Counter>
        let errors: Family<Counter>
        let running: Family<Gauge>
        let duration: Family<Histogram>
        let ttft: Family<Histogram>
        let requestBytes: Family<Histogram>
        let inputTokens: Family<Histogram>
        let outputTokens: Family<Histogram>
        let cachedTokens: Family<Histogram>
        let disaggregation: Family<Counter>
    }

    let running: Gauge
    let decodeOnly: Counter
    let prefillDecode: Counter

    private let values: [String]
    private let families: Families
    private let requests: Counter
    private let duration: Histogram
    private let streamingTTFT: Histogram
    private let unaryTTFT: Histogram
    private let requestBytes: Histogram
    private let inputTokens: Histogram
    private let outputTokens: Histogram
    private let cachedTokens: Histogram

    init(_ families: Families, _ key: Key) {
        values = [key.model, key.target, key.fairnessID, String(key.priority)]
        self.families = families
        running = families.running.child(values)
        requests = families.requests.child(values)
        duration = families.duration.child(values)
        streamingTTFT = families.ttft.child(values + ["true"])
        unaryTTFT = families.ttft.child(values + ["false"])
        requestBytes = families.requestBytes.child(values)
        inputTokens = families.inputTokens.child(values)
        outputTokens = families.outputTokens.child(values)
        cachedTokens = families.cachedTokens.child(values)
        decodeOnly = families.disaggregation.child(key.model, "decode-only")
        prefillDecode = families.disaggregation.child(key.model, "prefill-decode")
    }

    /// A request was understood.
    func started(bodyBytes: Int) {
        requests.increment()
        requestBytes.observe(Double(bodyBytes))
    }

    /// A request ended badly, with `status` for the client; 499 if the client went away.
    func error(_ status: Int) {
        families.errors.child(values + [String(status)]).increment()
    }

    /// A response was passed on.
    func succeeded(
        duration: Duration, firstByte: Duration?, isStreaming: Bool, usage reader: UsageReader?
    ) {
        self.duration.observe(duration)
        if let firstByte { (isStreaming ? streamingTTFT : unaryTTFT).observe(firstByte) }
        guard let usage = reader?.usage() else { return }
        if let count = usage.promptTokens { inputTokens.observe(Double(count)) }
        if let count = usage.completionTokens { outputTokens.observe(Double(count)) }
        if let count = usage.cachedTokens { cachedTokens.observe(Double(count)) }
    }
}

extension ModelMetrics.Families {
    init(_ registry: MetricsRegistry) {
        let labels = ModelMetrics.labels
        let tokens = Buckets.exponential(from: 1, factor: 2, count: 21)
        requests = registry.counters(
            "llm_d_epp_request_total", "Requests understood.", labels: labels)
        errors = registry.counters(
            "llm_d_epp_request_error_total", "Requests that ended badly.",
            labels: labels + ["error_code"])
        running = registry.gauges(
            "llm_d_epp_request_running", "Requests at an endpoint.", labels: labels)
        duration = registry.histograms(
            "llm_d_epp_request_duration_seconds", "From the request's head to its end.",
            labels: labels, bounds: Buckets.requestSeconds)
        ttft = registry.histograms(
            "llm_d_epp_request_ttft_seconds",
            "From the request's head to the first byte of the response's body.",
            labels: labels + ["streaming"], bounds: Buckets.requestSeconds)
        requestBytes = registry.histograms(
            "llm_d_epp_request_size_bytes", "Size of the request's body.", labels: labels,
            bounds: Buckets.exponential(from: 64, factor: 4, count: 12))
        inputTokens = registry.histograms(
            "llm_d_epp_request_input_tokens", "Tokens of the prompt, by the engine.",
            labels: labels, bounds: tokens)
        outputTokens = registry.histograms(
            "llm_d_epp_request_output_tokens", "Tokens of the response, by the engine.",
            labels: labels, bounds: tokens)
        cachedTokens = registry.histograms(
            "llm_d_epp_request_cached_tokens", "Tokens of the prompt that were cached.",
            labels: labels, bounds: tokens)
        disaggregation = registry.counters(
            "llm_d_epp_disagg_decision_total", "Decisions by the stages that they use.",
            labels: ["model_name", "decision_type"])
    }
}
