/// Which samples of a metrics page are meant: a metric's name, and labels that a sample must have.
public struct MetricSpec: Hashable, Sendable, CustomStringConvertible {
    /// The name.
    public var name: String
    /// The labels; an empty value also means a sample without the label, as in Prometheus.
    public var labels: [String: String]

    /// Makes a spec from its parts.
    public init(name: String, labels: [String: String] = [:]) {
        self.name = name
        self.labels = labels
    }

    /// Reads `name` or `name{label=value,…}`, the values with or without quotes: the form of
    /// llm-d's `core-metrics-extractor`.
    ///
    /// - Throws: ``MetricSpecError`` that says what is wrong.
    public init(parsing text: String) throws(MetricSpecError) {
        let parts = text.split(separator: "{", maxSplits: 1, omittingEmptySubsequences: false)
        let name = parts[0].trimmingBlanks
        guard let first = name.utf8.first, !(UInt8(ascii: "0")...UInt8(ascii: "9")).contains(first),
            name.utf8.allSatisfy(\.isNameByte)
        else {
            throw MetricSpecError(problem: "must be a metric's name, or name{label=value}")
        }
        var labels: [String: String] = [:]
        if parts.count == 2 {
            let list = parts[1].trimmingBlanks
            guard list.last == "}" else {
                throw MetricSpecError(problem: "has no closing brace")
            }
            for pair in list.dropLast().split(separator: ",") {
                let sides = pair.split(
                    separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
                guard sides.count == 2, !sides[0].trimmingBlanks.isEmpty else {
                    throw MetricSpecError(problem: "must have label=value")
                }
                let value = sides[1].trimmingBlanks.drop { $0 == "\"" }.prefix { $0 != "\"" }
                labels[String(sides[0].trimmingBlanks)] = String(value)
            }
        }
        self.init(name: String(name), labels: labels)
    }

    /// The form that ``init(parsing:)`` reads.
    public var description: String {
        guard !labels.isEmpty else { return name }
        let pairs = labels.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        return "\(name){\(pairs.joined(separator: ","))}"
    }
}

/// A text that is no ``MetricSpec``.
public struct MetricSpecError: Error, Equatable {
    /// What is wrong, as the end of a sentence that starts with the text.
    public var problem: String
}

/// Where an engine's metrics page is and what its figures are called. A figure without a name is
/// not read.
public struct EngineMetrics: Equatable, Sendable {
    /// A figure that becomes an attribute of the endpoint.
    public struct Custom: Equatable, Sendable {
        /// The attribute.
        public var attribute: String
        /// The figure; of several samples the last counts.
        public var spec: MetricSpec

        /// Makes a figure.
        public init(attribute: String, spec: MetricSpec) {
            self.attribute = attribute
            self.spec = spec
        }
    }

    /// Where the page is.
    public var path = "/metrics"
    /// Requests that wait; samples are added up.
    public var queuedRequests: MetricSpec?
    /// Requests that run; samples are added up.
    public var runningRequests: MetricSpec?
    /// The part of the KV cache in use, 0 to 1; of several samples the highest counts.
    public var kvUsage: MetricSpec?
    /// LoRA adapters, by the labels of vLLM; of several samples the one with the highest value
    /// counts, which is its time.
    public var lora: MetricSpec?
    /// A sample that tells the KV cache's size in labels.
    public var cacheInfo: MetricSpec?
    /// The label of `cacheInfo` with the tokens in a block.
    public var blockSizeLabel = "block_size"
    /// The label of `cacheInfo` with the number of blocks.
    public var blockCountLabel = "num_gpu_blocks"
    /// The tokens in a block, where that is a sample of its own.
    public var blockSize: MetricSpec?
    /// The number of blocks, where that is a sample of its own.
    public var blockCount: MetricSpec?
    /// Further figures.
    public var custom: [Custom] = []

    /// An engine of which nothing is read.
    public init() {}
}

/// What the metrics of the engines of a pool are called, by the kind of engine that a label of the
/// endpoint tells.
public struct EngineMetricsTable: Equatable, Sendable {
    /// The label that tells the kind of engine.
    public var label = "llm-d.ai/engine-type"
    /// The kind of an endpoint that has no such label, or one that is not known.
    public var defaultEngine = "vllm"
    /// The metrics by kind.
    public var engines = EngineMetrics.builtIn

    /// The defaults of upstream.
    public init() {}

    /// The metrics of one server.
    public func metrics(of server: ModelServer) -> EngineMetrics {
        server.labels[label].flatMap { engines[$0] } ?? engines[defaultEngine] ?? EngineMetrics()
    }
}

extension EngineMetrics {
    /// The engines that llm-d's `core-metrics-extractor` knows, by its names.
    public static let builtIn: [String: EngineMetrics] = [
        "vllm": .vllm, "sglang": .sglang, "trtllm-serve": .trtllmServe,
        "triton-tensorrt-llm": .tritonTensorRTLLM,
    ]

    /// vLLM.
    public static let vllm: EngineMetrics = {
        var engine = EngineMetrics()
        engine.queuedRequests = MetricSpec(name: "vllm:num_requests_waiting")
        engine.runningRequests = MetricSpec(name: "vllm:num_requests_running")
        engine.kvUsage = MetricSpec(name: "vllm:kv_cache_usage_perc")
        engine.lora = MetricSpec(name: "vllm:lora_requests_info")
        engine.cacheInfo = MetricSpec(name: "vllm:cache_config_info")
        return engine
    }()

    /// SGLang, which also shows its queue by priority beside the whole, and has told its cache in
    /// labels first and in samples of their own since.
    public static let sglang: EngineMetrics = {
        var engine = EngineMetrics()
        engine.queuedRequests = MetricSpec(name: "sglang:num_queue_reqs", labels: ["priority": ""])
        engine.runningRequests = MetricSpec(
            name: "sglang:num_running_reqs", labels: ["priority": ""])
        engine.kvUsage = MetricSpec(name: "sglang:token_usage")
        engine.cacheInfo = MetricSpec(name: "sglang:cache_config_info")
        engine.blockSizeLabel = "page_size"
        engine.blockCountLabel = "num_pages"
        engine.blockSize = MetricSpec(name: "sglang:page_size")
        engine.blockCount = MetricSpec(name: "sglang:num_pages")
        return engine
    }()

    /// TensorRT-LLM's own server, whose `/metrics` is JSON of something else.
    public static let trtllmServe: EngineMetrics = {
        var engine = EngineMetrics()
        engine.path = "/prometheus/metrics"
        engine.queuedRequests = MetricSpec(name: "trtllm_num_requests_waiting")
        engine.runningRequests = MetricSpec(name: "trtllm_num_requests_running")
        engine.kvUsage = MetricSpec(name: "trtllm_kv_cache_utilization")
        engine.blockSize = MetricSpec(name: "trtllm_kv_cache_tokens_per_block")
        engine.blockCount = MetricSpec(name: "trtllm_kv_cache_max_blocks")
        return engine
    }()

    /// TensorRT-LLM behind Triton, which has its metrics on a port of their own (8002).
    public static let tritonTensorRTLLM: EngineMetrics = {
        let requests = "nv_trt_llm_request_metrics"
        let blocks = "nv_trt_llm_kv_cache_block_metrics"
        var engine = EngineMetrics()
        engine.queuedRequests = MetricSpec(name: requests, labels: ["request_type": "waiting"])
        engine.runningRequests = MetricSpec(name: requests, labels: ["request_type": "scheduled"])
        engine.kvUsage = MetricSpec(name: blocks, labels: ["kv_cache_block_type": "fraction"])
        engine.blockSize = MetricSpec(name: blocks, labels: ["kv_cache_block_type": "tokens_per"])
        engine.blockCount = MetricSpec(name: blocks, labels: ["kv_cache_block_type": "max"])
        return engine
    }()
}

extension StringProtocol {
    fileprivate var trimmingBlanks: SubSequence {
        let start = firstIndex { $0 != " " } ?? endIndex
        let end = lastIndex { $0 != " " }.map { index(after: $0) } ?? endIndex
        return start < end ? self[start..<end] : self[endIndex...]
    }
}

extension UInt8 {
    fileprivate var isNameByte: Bool {
        (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(self)
            || (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(self | 0x20)
            || self == UInt8(ascii: "_") || self == UInt8(ascii: ":")
    }
}
