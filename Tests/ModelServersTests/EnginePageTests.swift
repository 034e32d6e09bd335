import Core
import Foundation
import ModelServers
import Testing

@Suite struct EnginePageTests {
    @Test func readsARealPage() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .appending(path: "Fixtures/vllm-metrics.txt")
        let load = try #require(try EnginePage.load(from: Array(Data(contentsOf: file))))
        #expect(load.waitingCount == 0 && load.runningCount == 0 && load.kvUsage == 0)
        #expect(load.blockSize == 32)
        #expect(load.blockCount == 16384)
    }

    @Test func adaptersAreThoseOfTheNewestSample() throws {
        let page = """
            vllm:num_requests_waiting 0
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="old",waiting_lora_adapters=""} 100.5
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="a, b",waiting_lora_adapters="c"} 102
            vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters="old"} 101

            """
        let load = try #require(try EnginePage.load(from: Array(page.utf8)))
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

    @Test func furtherFiguresBecomeAttributes() throws {
        let page = """
            vllm:num_requests_waiting 0
            my_depth{tier="gold",zone="a"} 7
            my_depth{tier="iron"} 9
            my_depth_total 11

            """
        let load = try #require(
            try EnginePage.load(
                from: Array(page.utf8),
                metrics: [
                    ScrapedMetric(attribute: "depth", name: "my_depth", labels: ["tier": "gold"]),
                    ScrapedMetric(attribute: "none", name: "my_depth", labels: ["tier": "tin"]),
                ]))
        #expect(load.attributes == ["depth": 7])
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
        let load = try #require(try EnginePage.load(from: Array(page.utf8)))
        #expect(load.waitingCount == 5 && load.runningCount == 4 && load.kvUsage == 0.5)
        #expect(load.blockSize == 16 && load.blockCount == 100)
    }

    @Test func oddValuesDoNoHarm() throws {
        let page = """
            vllm:num_requests_waiting NaN
            vllm:num_requests_running +Inf
            vllm:kv_cache_usage_perc 7

            """
        let load = try #require(try EnginePage.load(from: Array(page.utf8)))
        #expect(load.waitingCount == 0 && load.runningCount == 0 && load.kvUsage == 1)
        #expect(try EnginePage.load(from: Array("other 1\n".utf8)) == nil)
    }

    @Test(arguments: [
        (#"{"object":"list","data":[{"id":"a"},{"id":"b"},{}]}"#, ["a", "b"]),
        (#"{"data":[]}"#, []), (#"{"data":1}"#, nil), ("x", nil),
    ])
    func readsModelLists(body: String, expected: [String]?) {
        #expect(EnginePage.models(from: Array(body.utf8))?.map(\.id) == expected)
    }

    @Test func readsWhatVLLMSaysOfItsModels() throws {
        let body =
            #"{"object":"list","data":[{"id":"tiny","object":"model","created":1,"#
            + #""owned_by":"vllm","root":"model/tiny","parent":null,"max_model_len":4096},"#
            + #"{"id":"adapter-a","root":"model/adapter-a","parent":"tiny","max_model_len":null}]}"#
        let models = try #require(EnginePage.models(from: Array(body.utf8)))
        #expect(models.map(\.id) == ["tiny", "adapter-a"])
        #expect(models.map(\.parent) == [nil, "tiny"])
        #expect(models.map(\.root) == ["model/tiny", "model/adapter-a"])
        #expect(models.map(\.maximumLength) == [4096, nil])
        #expect(models.map(\.owner) == ["vllm", nil])
    }
}
