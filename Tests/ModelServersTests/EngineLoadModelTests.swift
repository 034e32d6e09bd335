import Core
import ModelServers
import Testing

/// SplitMix64 (public domain, Vigna): the same numbers for the same seed everywhere.
private struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

/// One line of a page, as the model sees it.
private struct Sample {
    var name: String
    var labels: [(name: String, value: String)]
    var value: Double

    var text: String {
        let list = labels.map { label in
            let escaped = label.value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"")
                .replacing("\n", with: "\\n")
            return "\(label.name)=\"\(escaped)\""
        }
        return "\(name)\(list.isEmpty ? "" : "{\(list.joined(separator: ","))}") \(value)"
    }

    func label(_ name: String) -> String? { labels.first { $0.name == name }?.value }

    func matches(_ spec: MetricSpec?) -> Bool {
        guard let spec, spec.name == name else { return false }
        return spec.labels.allSatisfy { (label($0.key) ?? "") == $0.value }
    }
}

/// The load of a page, from its samples in order and without any parsing.
private func model(_ samples: [Sample], _ metrics: EngineMetrics) -> ServerLoad? {
    var load = ServerLoad()
    func all(_ spec: MetricSpec?) -> [Sample] { samples.filter { $0.matches(spec) } }
    func sum(_ spec: MetricSpec?) -> Int { all(spec).map { Int($0.value) }.reduce(0, +) }
    load.waitingCount = sum(metrics.queuedRequests)
    load.runningCount = sum(metrics.runningRequests)
    load.kvUsage = all(metrics.kvUsage).map { min($0.value, 1) }.max() ?? 0
    let newest = all(metrics.lora).max { $0.value < $1.value }
    if let newest, let maximum = newest.label("max_lora").flatMap({ Int($0) }) {
        func names(_ label: String) -> [String] {
            (newest.label(label) ?? "").split(separator: ",").map(String.init)
        }
        load.lora = LoRALoad(
            maximumCount: maximum, running: names("running_lora_adapters"),
            waiting: names("waiting_lora_adapters"))
    }
    for sample in samples {
        if sample.matches(metrics.cacheInfo) {
            load.blockSize =
                sample.label(metrics.blockSizeLabel).flatMap { Int($0) } ?? load.blockSize
            load.blockCount =
                sample.label(metrics.blockCountLabel).flatMap { Int($0) } ?? load.blockCount
        }
        if sample.matches(metrics.blockSize) { load.blockSize = Int(sample.value) }
        if sample.matches(metrics.blockCount) { load.blockCount = Int(sample.value) }
        for custom in metrics.custom where sample.matches(custom.spec) {
            load.attributes[custom.attribute] = sample.value
        }
    }
    let specs =
        [
            metrics.queuedRequests, metrics.runningRequests, metrics.kvUsage, metrics.lora,
            metrics.cacheInfo, metrics.blockSize, metrics.blockCount,
        ] + metrics.custom.map(\.spec)
    return samples.contains { sample in specs.contains { sample.matches($0) } } ? load : nil
}

@Suite struct EngineLoadModelTests {
    private static let labels = [
        "priority", "engine", "request_type", "kv_cache_block_type", "block_size", "page_size",
        "num_gpu_blocks", "num_pages", "max_lora", "running_lora_adapters", "tier",
    ]
    private static let texts = [
        "", "0", "16", "4", "waiting", "scheduled", "fraction", "max", "tokens_per", "a,b", "gold",
        "q\"\\\n", "} 1", "# x",
    ]

    private static func sample(
        of metrics: EngineMetrics, _ random: inout SeededGenerator
    ) -> Sample {
        let specs = [
            metrics.queuedRequests, metrics.runningRequests, metrics.kvUsage, metrics.lora,
            metrics.cacheInfo, metrics.blockSize, metrics.blockCount, metrics.custom.first?.spec,
        ].compactMap(\.self)
        let spec = specs.randomElement(using: &random) ?? MetricSpec(name: "a")
        let name =
            switch Int.random(in: 0..<8, using: &random) {
            case 0: "\(spec.name)_total"
            case 1: String(spec.name.dropLast())
            case 2: "other_metric"
            default: spec.name
            }
        var labels: [(String, String)] = []
        for label in Self.labels where Int.random(in: 0..<4, using: &random) == 0 {
            labels.append((label, texts.randomElement(using: &random) ?? ""))
        }
        for (label, value) in spec.labels where Bool.random(using: &random) {
            labels.removeAll { $0.0 == label }
            labels.append((label, value))
        }
        labels.shuffle(using: &random)
        let value = Double(Int.random(in: 0..<4000, using: &random)) / 8
        return Sample(name: name, labels: labels, value: value)
    }

    /// Random pages in random pieces, read one after the other by one reader.
    @Test(arguments: ["vllm", "sglang", "trtllm-serve", "triton-tensorrt-llm"])
    func isWhatTheModelSays(engine: String) throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("loads of \(engine): seed \(seed)")
        var random = SeededGenerator(seed: seed)
        var metrics = try #require(EngineMetrics.builtIn[engine])
        metrics.custom = [
            .init(attribute: "depth", spec: MetricSpec(name: "depth", labels: ["tier": "gold"])),
            .init(attribute: "again", spec: try #require(metrics.queuedRequests)),
        ]
        let reader = EngineLoadReader(metrics)
        for round in 0..<400 {
            var samples: [Sample] = []
            var page = ""
            for _ in 0..<Int.random(in: 0..<30, using: &random) {
                switch Int.random(in: 0..<6, using: &random) {
                case 0: page += "# HELP vllm:num_requests_waiting 7\n"
                case 1:
                    page += ["\n", "# TYPE x gauge\n", " \n"].randomElement(using: &random) ?? ""
                default:
                    let sample = Self.sample(of: metrics, &random)
                    // The newest of several of the same time would be a matter of taste.
                    if let lora = metrics.lora, sample.name == lora.name,
                        samples.contains(where: {
                            $0.name == lora.name && $0.value == sample.value
                        })
                    {
                        continue
                    }
                    samples.append(sample)
                    page += sample.text + "\n"
                }
            }
            if Bool.random(using: &random), page.hasSuffix("\n") { page.removeLast() }
            let largest = [1, 7, 100, 10_000].randomElement(using: &random) ?? 1
            let load = try reader.load(Array(page.utf8)) { rest in
                Int.random(in: 1...min(rest, largest), using: &random)
            }
            #expect(load == model(samples, metrics), "seed \(seed), round \(round):\n\(page)")
            if load != model(samples, metrics) { return }
        }
    }
}
