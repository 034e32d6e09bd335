import Core
import Synchronization
import Telemetry
import Transfer

/// What `/metrics` shows: vLLM's metrics under vLLM's names, and the KV transfers under our own.
struct SimulatorMetrics {
    let registry = MetricsRegistry()

    private let running: Gauge
    private let waiting: Gauge
    private let waitingForCapacity: Gauge
    private let waitingDeferred: Gauge
    private let usage: Gauge
    private let adapters: AdapterSample

    private let prefixQueries: Counter
    private let prefixHits: Counter
    private let externalQueries: Counter
    private let externalHits: Counter
    private let preemptions: Counter
    private let promptTokens: Counter
    private let promptTokensCached: Counter
    private let computedTokens: Counter
    private let localTokens: Counter
    private let pulledTokens: Counter
    private let generationTokens: Counter
    private let successes: Family<Counter>
    private let rejections: Counter
    private let labelValues: [String]

    private let promptLength: Histogram
    private let computedLength: Histogram
    private let replyLength: Histogram
    private let preemptionCount: Histogram
    private let choiceCount: Histogram
    private let maxTokens: Histogram
    private let timeToFirstToken: Histogram
    private let interTokenLatency: Histogram
    private let timePerOutputToken: Histogram
    private let endToEnd: Histogram
    private let queueTime: Histogram
    private let inferenceTime: Histogram
    private let prefillTime: Histogram
    private let decodeTime: Histogram

    private let transferBlocks: Family<Counter>
    private let transferBytes: Family<Counter>
    private let transferSeconds: Family<Histogram>
    private let transferFailures: Counter
    private let staleTransfers: Counter
    private let mismatches: Counter
    private let leasesExpired: Counter
    private let injectedFailures: Family<Counter>

    init(_ configuration: SimulatorConfiguration) {
        let registry = registry
        let labels = ["engine", "model_name"]
        let values = ["0", configuration.modelNames[0]]
        labelValues = values

        func counter(_ name: String, _ help: String) -> Counter {
            registry.counters("vllm:\(name)", help, labels: labels).child(values)
        }
        func gauge(_ name: String, _ help: String) -> Gauge {
            registry.gauges("vllm:\(name)", help, labels: labels).child(values)
        }
        func histogram(_ name: String, _ help: String, _ bounds: [Double]) -> Histogram {
            registry.histograms("vllm:\(name)", help, labels: labels, bounds: bounds).child(values)
        }

        running = gauge("num_requests_running", "Number of requests in model execution batches.")
        waiting = gauge("num_requests_waiting", "Number of requests waiting to be processed.")
        let byReason = registry.gauges(
            "vllm:num_requests_waiting_by_reason",
            "Number of waiting requests by reason: capacity, or deferred for a KV transfer.",
            labels: labels + ["reason"])
        waitingForCapacity = byReason.child(values + ["capacity"])
        waitingDeferred = byReason.child(values + ["deferred"])
        usage = gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
        adapters = AdapterSample()
        if configuration.maximumAdapters > 0 {
            // vLLM keeps every set of labels there ever was, and the newest counts; ours is it.
            registry.gauges(
                "vllm:lora_requests_info", "Running stats on lora requests.",
                labels: ["max_lora", "running_lora_adapters", "waiting_lora_adapters"]
            ) { [adapters] in
                [
                    (
                        ["\(configuration.maximumAdapters)"] + adapters.names.withLock { $0 },
                        wallClockSeconds()
                    )
                ]
            }
        }

        prefixQueries = counter(
            "prefix_cache_queries_total", "Prefix cache queries, in queried tokens.")
        prefixHits = counter("prefix_cache_hits_total", "Prefix cache hits, in cached tokens.")
        externalQueries = counter(
            "external_prefix_cache_queries_total",
            "Prompt tokens of requests whose KV cache was to come from another engine.")
        externalHits = counter(
            "external_prefix_cache_hits_total",
            "Prompt tokens whose KV cache came from another engine.")
        preemptions = counter(
            "num_preemptions_total", "Cumulative number of preemption from the engine.")
        promptTokens = counter("prompt_tokens_total", "Number of prefill tokens processed.")
        promptTokensCached = counter(
            "prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).")
        let bySource = registry.counters(
            "vllm:prompt_tokens_by_source_total", "Number of prompt tokens by source.",
            labels: labels + ["source"])
        computedTokens = bySource.child(values + ["local_compute"])
        localTokens = bySource.child(values + ["local_cache_hit"])
        pulledTokens = bySource.child(values + ["external_kv_transfer"])
        generationTokens = counter(
            "generation_tokens_total", "Number of generation tokens processed.")
        successes = registry.counters(
            "vllm:request_success_total", "Count of successfully processed requests.",
            labels: ["engine", "finished_reason", "model_name"])
        for reason in ["stop", "length", "abort", "error"] {
            _ = successes.child([values[0], reason, values[1]])
        }
        rejections = registry.counters(
            "vllm:admission_rejections_total",
            "Number of admission attempts rejected by a queue limit, by reason.",
            labels: ["model_name", "reason"]
        ).child(values[1], "max_num_queued_reqs")

        promptLength = histogram(
            "request_prompt_tokens", "Number of prefill tokens processed.", VLLMBuckets.tokens)
        computedLength = histogram(
            "request_prefill_kv_computed_tokens",
            "New KV tokens computed during prefill, without cached ones.", VLLMBuckets.tokens)
        replyLength = histogram(
            "request_generation_tokens", "Number of generation tokens processed.",
            VLLMBuckets.tokens)
        preemptionCount = histogram(
            "request_num_preemptions",
            "Histogram of the number of times a request was preempted.",
            [1, 2, 3, 4, 5, 10, 20])
        choiceCount = histogram(
            "request_params_n", "The n request parameter.", [1, 2, 5, 10, 20])
        maxTokens = histogram(
            "request_params_max_tokens", "The max_tokens request parameter.", VLLMBuckets.tokens)
        timeToFirstToken = histogram(
            "time_to_first_token_seconds", "Time to first token in seconds.",
            VLLMBuckets.firstToken)
        interTokenLatency = histogram(
            "inter_token_latency_seconds", "Inter-token latency in seconds.",
            VLLMBuckets.perToken)
        timePerOutputToken = histogram(
            "request_time_per_output_token_seconds", "Time per output token of a request.",
            VLLMBuckets.perToken)
        endToEnd = histogram(
            "e2e_request_latency_seconds", "End to end request latency in seconds.",
            VLLMBuckets.phase)
        queueTime = histogram(
            "request_queue_time_seconds", "Time spent in WAITING phase.", VLLMBuckets.phase)
        inferenceTime = histogram(
            "request_inference_time_seconds", "Time spent in RUNNING phase.", VLLMBuckets.phase)
        prefillTime = histogram(
            "request_prefill_time_seconds", "Time spent in PREFILL phase.", VLLMBuckets.phase)
        decodeTime = histogram(
            "request_decode_time_seconds", "Time spent in DECODE phase.", VLLMBuckets.phase)

        transferBlocks = registry.counters(
            "llmd_sim_kv_transfer_blocks_total", "KV blocks pulled and found right.",
            labels: ["path"])
        transferBytes = registry.counters(
            "llmd_sim_kv_transfer_bytes_total", "Bytes of KV blocks pulled and found right.",
            labels: ["path"])
        transferSeconds = registry.histograms(
            "llmd_sim_kv_transfer_seconds", "Time from the start of a pull to its end.",
            labels: ["path"],
            bounds: Buckets.exponential(from: 0.0001, factor: 4, count: 9))
        for path in TransferPath.allCases {
            _ = transferBlocks.child(path.rawValue)
            _ = transferBytes.child(path.rawValue)
        }
        transferFailures = registry.counter(
            "llmd_sim_kv_transfer_failures_total", "Pulls that ended without their blocks.")
        staleTransfers = registry.counter(
            "llmd_sim_kv_transfer_stale_total",
            "Pulls that failed because the blocks were taken back or their engine is gone.")
        mismatches = registry.counter(
            "llmd_sim_kv_transfer_mismatches_total",
            "Blocks that were pulled and are not what their hash says.")
        leasesExpired = registry.counter(
            "llmd_sim_kv_leases_expired_total",
            "Requests whose blocks were kept for another engine in vain.")
        injectedFailures = registry.counters(
            "llmd_sim_injected_failures_total", "Generations that were failed on purpose.",
            labels: ["type"])
        registry.registerProcessMetrics()
        registerInfo(configuration)
    }

    private func registerInfo(_ configuration: SimulatorConfiguration) {
        registry.gauges(
            "llmd_sim_info", "What this simulated engine is set up for.",
            labels: ["model", "role", "seed"]
        ).child(configuration.model, configuration.role.rawValue, "\(configuration.seed)").set(1)
        let info = [
            ("block_size", "\(configuration.blockSize)"),
            ("cache_dtype", "auto"),
            ("effective_attention_block_size", "\(configuration.blockSize)"),
            ("enable_prefix_caching", "True"),
            ("engine", "0"),
            ("kv_cache_memory_bytes", "\(configuration.blockCount * configuration.blockByteCount)"),
            ("kv_cache_size_tokens", "\(configuration.blockCount * configuration.blockSize)"),
            ("num_gpu_blocks", "\(configuration.blockCount)"),
            ("prefix_caching_hash_algo", "sha256_cbor"),
        ]
        registry.gauges(
            "vllm:cache_config_info", "Information of the LLMEngine CacheConfig",
            labels: info.map(\.0)
        ).child(info.map(\.1)).set(1)
    }

    /// The page, with the gauges as they stand in `scheduler`.
    func page(_ scheduler: EngineScheduler) -> [UInt8] {
        running.set(Double(scheduler.runningCount))
        waitingForCapacity.set(Double(scheduler.capacityWaitingCount))
        waitingDeferred.set(Double(scheduler.transferWaitingCount))
        waiting.set(Double(scheduler.capacityWaitingCount + scheduler.transferWaitingCount))
        usage.set(scheduler.pool.usage)
        let names = [scheduler.runningAdapters, scheduler.waitingAdapters]
            .map { $0.map(\.module.name).sorted().joined(separator: ",") }
        adapters.names.withLock { $0 = names }
        return registry.exposition()
    }

    func called(choices: Int, maxTokens limit: Int) {
        choiceCount.observe(Double(choices))
        maxTokens.observe(Double(limit))
    }

    func rejected() { rejections.increment() }

    func admitted(_ request: EngineRequest) {
        prefixQueries.increment(by: request.prompt.count)
        prefixHits.increment(by: request.cachedTokenCount)
        if request.remote != nil {
            externalQueries.increment(by: request.prompt.count - request.cachedTokenCount)
        }
    }

    func token(_ request: EngineRequest, interval: Duration?) {
        generationTokens.increment()
        if let interval {
            interTokenLatency.observe(interval)
            return
        }
        let computed =
            request.prompt.count - request.cachedTokenCount - request.pulledTokenCount
        promptTokens.increment(by: request.prompt.count)
        promptTokensCached.increment(by: request.cachedTokenCount + request.pulledTokenCount)
        computedTokens.increment(by: computed)
        localTokens.increment(by: request.cachedTokenCount)
        pulledTokens.increment(by: request.pulledTokenCount)
        externalHits.increment(by: request.pulledTokenCount)
        computedLength.observe(Double(computed))
        timeToFirstToken.observe(request.timeline.firstToken - request.timeline.arrived)
    }

    func ended(_ request: EngineRequest) {
        count(finished: request.reply.finishReason.rawValue)
        promptLength.observe(Double(request.prompt.count))
        replyLength.observe(Double(request.generatedCount))
        preemptionCount.observe(Double(request.preemptionCount))
        let timeline = request.timeline
        let decode = timeline.lastToken - timeline.firstToken
        endToEnd.observe(timeline.lastToken - timeline.arrived)
        queueTime.observe(timeline.scheduled - timeline.arrived)
        inferenceTime.observe(timeline.lastToken - timeline.scheduled)
        prefillTime.observe(timeline.firstToken - timeline.scheduled)
        decodeTime.observe(decode)
        if request.generatedCount > 1 {
            timePerOutputToken.observe(decode / (request.generatedCount - 1))
        }
    }

    func aborted() { count(finished: "abort") }

    func failed() { count(finished: "error") }

    func injected(_ failure: InjectedFailure) {
        injectedFailures.child(failure.rawValue).increment()
    }

    func preempted() { preemptions.increment() }

    func leaseExpired() { leasesExpired.increment() }

    func transferred(blocks: Int, bytes: Int, over path: TransferPath, in time: Duration) {
        transferBlocks.child(path.rawValue).increment(by: blocks)
        transferBytes.child(path.rawValue).increment(by: bytes)
        transferSeconds.child(path.rawValue).observe(time)
    }

    func transferFailed(_ error: TransferError) {
        transferFailures.increment()
        if error == .stale { staleTransfers.increment() }
    }

    func mismatched(blocks: Int) { mismatches.increment(by: blocks) }

    private func count(finished reason: String) {
        successes.child([labelValues[0], reason, labelValues[1]]).increment()
    }
}

/// The names of the adapters that run and of those that wait, as labels.
private final class AdapterSample: Sendable {
    let names = Mutex(["", ""])
}

/// The buckets of vLLM's histograms.
private enum VLLMBuckets {
    static let tokens: [Double] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000]
    static let firstToken: [Double] = [
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20,
        40, 80, 160, 640, 2560,
    ]
    static let perToken: [Double] = [
        0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
        80,
    ]
    static let phase: [Double] = [
        0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920,
        7680,
    ]
}
