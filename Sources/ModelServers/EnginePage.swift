public import Core
public import Scan

/// The metrics page of vLLM, as far as scheduling reads it.
public enum EnginePage {
    /// Reads a page. An engine of several ranks shows each figure once for each: requests are
    /// added up, of the KV cache use the highest counts.
    ///
    /// - Returns: nil if the page has none of the figures.
    public static func load(from page: [UInt8]) throws(ScanError) -> ServerLoad? {
        var load = ServerLoad()
        var isFound = false
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

    /// What is no number of requests counts as none.
    private static func count(_ value: Double) -> Int {
        value >= 0 && value < 1e9 ? Int(value) : 0
    }
}
