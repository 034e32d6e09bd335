import Core
import Net
import Scan

/// What the processes of a stack count, read from their `/metrics` pages.
public struct StackMetrics: Equatable, Sendable {
    /// One engine.
    public struct Engine: Equatable, Sendable {
        /// Requests in the batch.
        public var running = 0
        /// Requests that wait for a place in it.
        public var waiting = 0
        /// The part of its KV blocks in use, 0 to 1.
        public var kvUsage = 0.0
        /// Prompt tokens that it computed itself.
        public var computedTokens = 0
        /// KV transfers into it.
        public var transfers = 0
        /// Bytes of them.
        public var transferredBytes = 0
    }

    /// The engines that answered, by name.
    public var engines: [String: Engine] = [:]
    /// Requests that the gateway took.
    public var requests = 0
    /// Prompt tokens of them.
    public var promptTokens = 0

    /// Prompt tokens that no engine computed, of all; a block that a decode engine pulled from a
    /// prefill engine was computed there. Nil before the first request.
    public var prefixHitRatio: Double? {
        guard promptTokens > 0 else { return nil }
        let computed = engines.values.reduce(0) { $0 + $1.computedTokens }
        return max(0, 1 - Double(computed) / Double(promptTokens))
    }

    /// Reads the pages of a stack. A process that does not answer is left out.
    static func read(of plan: StackPlan, client: HTTPClient) async -> StackMetrics {
        var metrics = StackMetrics()
        for page in plan.metrics {
            await forEachSample(at: page, client) { sample in
                if sample.isNamed("llm_d_epp_request_total") {
                    metrics.requests += Int(sample.value)
                } else if sample.isNamed("llm_d_epp_request_input_tokens_sum") {
                    metrics.promptTokens += Int(sample.value)
                }
            }
        }
        for child in plan.engines {
            var engine = Engine()
            let answered = await forEachSample(at: child.address, client) { sample in
                if sample.isNamed("vllm:num_requests_running") {
                    engine.running = Int(sample.value)
                } else if sample.isNamed("vllm:num_requests_waiting") {
                    engine.waiting = Int(sample.value)
                } else if sample.isNamed("vllm:kv_cache_usage_perc") {
                    engine.kvUsage = sample.value
                } else if sample.isNamed("vllm:prompt_tokens_by_source_total") {
                    if sample.label("source") == "local_compute" {
                        engine.computedTokens = Int(sample.value)
                    }
                } else if sample.isNamed("llmd_sim_kv_transfer_seconds_count") {
                    engine.transfers += Int(sample.value)
                } else if sample.isNamed("llmd_sim_kv_transfer_bytes_total") {
                    engine.transferredBytes += Int(sample.value)
                }
            }
            if answered { metrics.engines[child.name] = engine }
        }
        return metrics
    }

    /// Whether a whole page came.
    @discardableResult
    private static func forEachSample(
        at address: SocketAddress, _ client: HTTPClient, _ body: (PrometheusSample) -> Void
    ) async -> Bool {
        let head = HTTPRequestHead(method: "GET", target: "/metrics")
        guard
            let response = try? await client.send(
                head, to: address, body: nil, maximumResponseBytes: 4 << 20, timeout: .seconds(2)),
            response.status == 200
        else { return false }
        return (try? PrometheusText.forEachSample(in: response.body, body)) != nil
    }
}
