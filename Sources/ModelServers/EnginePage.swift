public import Core
public import Scan

/// The metrics page of vLLM, as far as scheduling reads it.
public enum EnginePage {
    /// Reads a page. An engine of several ranks shows each figure once for each: requests are
    /// added up, of the KV cache use the highest counts.
    ///
    /// `metrics` are figures that are wanted besides; of several samples the last counts.
    ///
    /// - Returns: nil if the page has none of the figures.
    public static func load(
        from page: [UInt8], metrics: [ScrapedMetric] = []
    ) throws(ScanError) -> ServerLoad? {
        var load = ServerLoad()
        var isFound = false
        var newestLoRA = -Double.infinity
        try PrometheusText.forEachSample(in: page) { sample in
            if sample.isNamed("vllm:num_requests_waiting") {
                load.waitingCount += count(sample.value)
                isFound = true
            } else if sample.isNamed("vllm:num_requests_running") {
                load.runningCount += count(sample.value)
                isFound = true
            } else if sample.isNamed("vllm:kv_cache_usage_perc") {
                let usage = sample.value
                if usage >= 0 { load.kvUsage = max(load.kvUsage, min(usage, 1)) }
                isFound = true
            } else if sample.isNamed("vllm:cache_config_info") {
                load.blockSize = sample.label("block_size").flatMap { Int($0) }
                load.blockCount = sample.label("num_gpu_blocks").flatMap { Int($0) }
            } else if sample.isNamed("vllm:lora_requests_info"), sample.value > newestLoRA {
                // A series stays after its adapters have changed; the value is its time.
                newestLoRA = sample.value
                load.lora = lora(sample)
            }
            for metric in metrics where metric.matches(sample) {
                load.attributes[metric.attribute] = sample.value
            }
        }
        return isFound ? load : nil
    }

    /// The models in an answer to `GET /v1/models`; nil if it is not one.
    public static func models(from body: [UInt8]) -> [ServedModel]? {
        guard let list = try? JSONDocument.parse(body)["data"], list.kind == .array else {
            return nil
        }
        return list.elements.compactMap { entry in
            guard let id = entry["id"]?.string else { return nil }
            var model = ServedModel(id: id)
            model.parent = entry["parent"]?.string
            model.root = entry["root"]?.string
            model.maximumLength = entry["max_model_len"]?.int
            model.owner = entry["owned_by"]?.string
            return model
        }
    }

    private static func lora(_ sample: PrometheusSample) -> LoRALoad? {
        guard let maximum = sample.label("max_lora").flatMap({ Int($0) }) else { return nil }
        return LoRALoad(
            maximumCount: maximum, running: names(sample.label("running_lora_adapters")),
            waiting: names(sample.label("waiting_lora_adapters")))
    }

    private static func names(_ list: String?) -> [String] {
        list?.split(separator: ",").map { name in
            String(name.drop { $0 == " " })
        } ?? []
    }

    /// What is no number of requests counts as none.
    private static func count(_ value: Double) -> Int {
        value >= 0 && value < 1e9 ? Int(value) : 0
    }
}

/// A figure of the metrics page that becomes an attribute of the endpoint.
public struct ScrapedMetric: Equatable, Sendable {
    /// The name of the attribute.
    public var attribute: String
    /// The name of the metric.
    public var name: String
    /// The labels that a sample must have.
    public var labels: [String: String]

    /// Makes a metric.
    public init(attribute: String, name: String, labels: [String: String] = [:]) {
        self.attribute = attribute
        self.name = name
        self.labels = labels
    }

    func matches(_ sample: PrometheusSample) -> Bool {
        sample.isNamed(name) && labels.allSatisfy { sample.label($0.key) == $0.value }
    }
}
