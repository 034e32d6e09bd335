import Foundation
import Scan
import Testing

@Suite struct PrometheusTextTests {
    @Test func capturedPageOfVLLM() throws {
        let page = try fixture("vllm_metrics.txt")
        var names = Set<String>()
        var count = 0
        var running: Double?
        var lora: [(running: String?, time: Double)] = []
        var blockSize: String?
        var blocks: String?
        try PrometheusText.forEachSample(in: page) { sample in
            count += 1
            names.insert(sample.name)
            if sample.isNamed("vllm:num_requests_running") {
                running = sample.value
                #expect(sample.label("model_name") == "tiny-llama")
            } else if sample.isNamed("vllm:lora_requests_info") {
                lora.append((sample.label("running_lora_adapters"), sample.value))
            } else if sample.isNamed("vllm:cache_config_info") {
                blockSize = sample.label("block_size")
                blocks = sample.label("num_gpu_blocks")
            }
        }
        #expect(running == 0)
        #expect(lora.map(\.running) == ["", "adapter-a"])
        #expect(lora.map(\.time) == [1_795_365_540.886_633_9, 1_795_365_328.055_398_2])
        #expect(blockSize == "32")
        #expect(blocks.flatMap { Int($0) } != nil)
        // The model: every line that is no comment is a sample, up to a blank or a brace its name.
        let lines = String(decoding: page, as: UTF8.self).split(separator: "\n")
            .filter { !$0.hasPrefix("#") }
        #expect(count == lines.count)
        #expect(names == Set(lines.map { String($0.prefix { $0 != "{" && $0 != " " }) }))
    }

    @Test func valuesOfTheCapturedPage() throws {
        let page = try fixture("vllm_metrics.txt")
        var values: [Double] = []
        try PrometheusText.forEachSample(in: page) { values.append($0.value) }
        let expected = String(decoding: page, as: UTF8.self).split(separator: "\n")
            .filter { !$0.hasPrefix("#") }
            .map { Double($0.split(separator: " ").last ?? "") }
        #expect(values == expected)
    }

    @Test func labelsAreUnescaped() throws {
        let page = Array(#"a{x="q\"\\\n\z",y="",le="+Inf"} NaN"#.utf8)
        var seen = 0
        try PrometheusText.forEachSample(in: page) { sample in
            seen += 1
            #expect(sample.label("x") == "q\"\\\nz")
            #expect(sample.label("y") == "")
            #expect(sample.label("le") == "+Inf")
            #expect(sample.label("z") == nil)
            #expect(sample.isNamed("a") && !sample.isNamed("aa") && !sample.isNamed(""))
            #expect(String(decoding: sample.labels, as: UTF8.self).hasPrefix("x="))
            #expect(sample.value.isNaN)
        }
        #expect(seen == 1)
    }

    @Test func specialValues() throws {
        var values: [Double] = []
        try PrometheusText.forEachSample(
            in: Array("a +Inf\na -Inf\na infinity\na 1e400\na 5.\na 123456789012345683968\n".utf8)
        ) { values.append($0.value) }
        #expect(
            values == [.infinity, -.infinity, .infinity, .infinity, 5, 123_456_789_012_345_683_968])
    }

    @Test func anErrorNamesTheLine() {
        var seen = 0
        #expect(throws: ScanError(offset: 4, reason: .labels)) {
            try PrometheusText.forEachSample(in: Array("a 1\nb{c} 2\n".utf8)) { _ in seen += 1 }
        }
        #expect(seen == 1)
    }

    @Test func emptyPage() throws {
        try PrometheusText.forEachSample(in: []) { _ in Issue.record("a sample of nothing") }
    }
}
