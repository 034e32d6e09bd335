import Core
import Foundation
import ModelServers
import Scan
import Testing

@Suite struct EngineLoadReaderTests {
    /// Reads a page, all of it at once.
    private func read(
        _ page: String, _ metrics: EngineMetrics = .vllm
    ) throws -> ServerLoad? {
        let reader = EngineLoadReader(metrics)
        return try reader.load(Array(page.utf8)) { $0 }
    }

    @Test func readsARealPage() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "Fixtures/vllm-metrics.txt")
        let page = try Array(Data(contentsOf: file))
        let reader = EngineLoadReader(.vllm)
        for _ in 0..<2 {
            let load = try #require(try reader.load(page) { min($0, 1000) })
            #expect(load.waitingCount == 0 && load.runningCount == 0 && load.kvUsage == 0)
            #expect(load.blockSize == 32)
            #expect(load.blockCount == 16384)
            #expect(load.lora == LoRALoad(maximumCount: 2))
        }
    }

    @Test func adaptersAreThoseOfTheNewestSample() throws {
        let page = """
            vllm:num_requests_waiting 0
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 100.5
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 102
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters="old"} 101

            """
        let load = try #require(try read(page))
        #expect(load.lora == LoRALoad(maximumCount: 4, running: ["a", "b"], waiting: ["c"]))
        let pool = EndpointPool()
        pool.update([
            ModelServer(name: "e", address: SocketAddress(host: "10.0.0.1", port: 8000))
        ])
        let member = try #require(pool.snapshot.members.first)
        member.scraped(.load(load), at: .now)
        #expect(member.load.lora == load.lora)
        member.scraped(.load(ServerLoad()), at: .now)
        #expect(member.load.lora == nil)
    }

    /// What is told in labels is remembered from page to page.
    @Test func followsLabelsThatChange() throws {
        let reader = EngineLoadReader(.vllm)
        for number in 1...20 {
            // Every label list comes twice, the second time after others.
            for name in ["a\(number)", "a\(number - 1)"] {
                let page = """
                    vllm:lora_requests_info{max_lora="1",running_lora_adapters="\(name)"} 1
                    vllm:cache_config_info{block_size="\(number)",num_gpu_blocks="5"} 1

                    """
                let load = try #require(try reader.load(Array(page.utf8)) { $0 })
                #expect(load.lora?.running == [name])
                #expect(load.blockSize == number && load.blockCount == 5)
            }
        }
    }

    @Test func furtherFiguresBecomeAttributes() throws {
        let page = """
            vllm:num_requests_waiting 0
            my_depth{tier="gold",zone="a"} 7
            my_depth{tier="iron"} 9
            my_depth_total 11

            """
        var metrics = EngineMetrics.vllm
        metrics.custom = [
            .init(attribute: "depth", spec: MetricSpec(name: "my_depth", labels: ["tier": "gold"])),
            .init(attribute: "none", spec: MetricSpec(name: "my_depth", labels: ["tier": "tin"])),
            .init(attribute: "last", spec: MetricSpec(name: "my_depth")),
        ]
        let load = try #require(try read(page, metrics))
        #expect(load.attributes == ["depth": 7, "last": 9])
    }

    @Test func addsUpRanks() throws {
        let page = """
            vllm:num_requests_waiting{engine="0"} 2
            vllm:num_requests_waiting{engine="1"} 3
            vllm:num_requests_waiting_by_reason{engine="1"} 9
            vllm:num_requests_running{engine="0"} 4
            vllm:kv_cache_usage_perc{engine="0"} 0.25
            vllm:kv_cache_usage_perc{engine="1"} 0.5
            vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1

            """
        let load = try #require(try read(page))
        #expect(load.waitingCount == 5 && load.runningCount == 4 && load.kvUsage == 0.5)
        #expect(load.blockSize == 16 && load.blockCount == 100)
    }

    @Test func oddValuesDoNoHarm() throws {
        let page = """
            vllm:num_requests_waiting NaN
            vllm:num_requests_running +Inf
            vllm:kv_cache_usage_perc 7

            """
        let load = try #require(try read(page))
        #expect(load.waitingCount == 0 && load.runningCount == 0 && load.kvUsage == 1)
        #expect(try read("other 1\n") == nil)
        #expect(try read("") == nil)
    }

    @Test func aWantedLineThatIsMalformedIsAnError() throws {
        #expect(throws: ScanError(offset: 8, reason: .labels)) {
            try read("other 1\nvllm:num_requests_waiting{ 1\nvllm:num_requests_running 2\n")
        }
        // Nobody looks at the form of the others.
        let load = try #require(try read("other{ 1\nvllm:num_requests_running 2"))
        #expect(load.runningCount == 2)
    }

    // Shortened from pages of these engines.
    @Test(arguments: [
        (
            "sglang",
            """
            # HELP sglang:num_running_reqs The number of running requests.
            # TYPE sglang:num_running_reqs gauge
            sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0"} 162.0
            sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0"} 28.0
            sglang:num_queue_reqs{engine_type="unified",model_name="m",priority="1"} 20.0
            sglang:num_queue_reqs_by_x{model_name="m"} 9.0
            sglang:token_usage{engine_type="unified",model_name="m",tp_rank="0"} 0.28
            sglang:cache_config_info{model_name="m",page_size="64",num_pages="1852"} 1.0

            """
        ),
        (
            "sglang",
            """
            sglang:num_running_reqs{model_name="m"} 162.0
            sglang:num_queue_reqs{model_name="m",priority=""} 28.0
            sglang:token_usage{model_name="m"} 0.28
            sglang:page_size{model_name="m"} 64.0
            sglang:num_pages{model_name="m"} 1852.0

            """
        ),
        (
            "trtllm-serve",
            """
            trtllm_request_success_total{finished_reason="stop",model_name="m"} 95.0
            trtllm_kv_cache_utilization{engine_type="trtllm",model_name="m"} 0.28
            trtllm_kv_cache_hit_rate{engine_type="trtllm",model_name="m"} 0.38
            trtllm_kv_cache_tokens_per_block{model_name="m"} 64.0
            trtllm_kv_cache_max_blocks{model_name="m"} 1852.0
            trtllm_num_requests_running{model_name="m"} 162.0
            trtllm_num_requests_waiting{model_name="m"} 28.0

            """
        ),
        (
            "triton-tensorrt-llm",
            """
            nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 28
            nv_trt_llm_request_metrics{model="m",request_type="context",version="1"} 1
            nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 162
            nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512
            nv_trt_llm_request_metrics{model="m",request_type="active",version="1"} 190
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.28
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 64
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="used",model="m"} 518
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="free",model="m"} 1334
            nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="max",model="m"} 1852

            """
        ),
    ])
    func readsEveryEngine(engine: String, page: String) throws {
        let metrics = try #require(EngineMetrics.builtIn[engine])
        let load = try #require(try read(page, metrics))
        #expect(load.waitingCount == 28 && load.runningCount == 162 && load.kvUsage == 0.28)
        #expect(load.blockSize == 64 && load.blockCount == 1852)
    }

    @Test func aLabelTellsTheEngine() {
        var table = EngineMetricsTable()
        table.engines["mine"] = EngineMetrics()
        func metrics(_ labels: [String: String]) -> EngineMetrics {
            table.metrics(
                of: ModelServer(
                    name: "e", address: SocketAddress(host: "10.0.0.1", port: 1), labels: labels))
        }
        #expect(metrics([:]) == .vllm)
        #expect(metrics(["llm-d.ai/engine-type": "sglang"]) == .sglang)
        #expect(metrics(["llm-d.ai/engine-type": "mine"]) == EngineMetrics())
        #expect(metrics(["llm-d.ai/engine-type": "unheard-of"]) == .vllm)
        table.label = "engine"
        table.defaultEngine = "trtllm-serve"
        #expect(metrics(["llm-d.ai/engine-type": "sglang"]).path == "/prometheus/metrics")
        #expect(metrics(["engine": "sglang"]) == .sglang)
    }

    @Test(arguments: [
        ("a:b_1", MetricSpec(name: "a:b_1")),
        (" a {x=y, z = \"w w\"} ", MetricSpec(name: "a", labels: ["x": "y", "z": "w w"])),
        ("a{x=}", MetricSpec(name: "a", labels: ["x": ""])),
        ("a{}", MetricSpec(name: "a")),
    ])
    func readsSpecs(text: String, expected: MetricSpec) throws {
        #expect(try MetricSpec(parsing: text) == expected)
    }

    @Test(arguments: [
        ("", "must be a metric's name, or name{label=value}"),
        ("1a", "must be a metric's name, or name{label=value}"),
        ("a b", "must be a metric's name, or name{label=value}"),
        ("a{x=y", "has no closing brace"),
        ("a{x}", "must have label=value"),
        ("a{=y}", "must have label=value"),
    ])
    func refusesSpecs(text: String, problem: String) {
        let error = #expect(throws: MetricSpecError.self) { try MetricSpec(parsing: text) }
        #expect(error?.problem == problem)
    }
}

extension EngineLoadReader {
    /// Reads a page in pieces; `length` says how long the next one is of so many bytes.
    func load(_ page: [UInt8], _ length: (Int) -> Int) throws(ScanError) -> ServerLoad? {
        begin()
        var rest = page[...]
        while !rest.isEmpty {
            let piece = rest.prefix(length(rest.count))
            rest = rest.dropFirst(piece.count)
            // A copy: what is read beside it would be found.
            Array(piece).withUnsafeBytes { receive($0) }
        }
        return try finish()
    }
}
