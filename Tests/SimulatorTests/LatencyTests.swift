import Core
import Simulator
import Testing

@Suite struct LatencyTests {
    private func parameters() -> LatencyModel.Parameters {
        var parameters = LatencyModel.Parameters()
        parameters.prefillTokensPerSecond = 10_000
        parameters.prefillOverhead = .milliseconds(5)
        parameters.interTokenLatency = .milliseconds(10)
        parameters.timeFactorUnderLoad = 3
        parameters.kvBytesPerToken = 1000
        return parameters
    }

    @Test func formulasWithoutJitter() {
        var model = LatencyModel(parameters(), maxRunning: 11, seed: 1)
        #expect(model.prefill(tokens: 0) == .milliseconds(5))
        #expect(model.prefill(tokens: 1000) == .milliseconds(105))
        #expect(model.loadFactor(running: 0) == 1)
        #expect(model.loadFactor(running: 1) == 1)
        #expect(model.loadFactor(running: 6) == 2)
        #expect(model.loadFactor(running: 11) == 3)
        #expect(model.step(running: 1) == .milliseconds(10))
        #expect(model.step(running: 11) == .milliseconds(30))
        #expect(model.transfer(tokens: 50, bandwidth: 1e6) == .milliseconds(50))
    }

    @Test func aBatchOfOneHasNoLoad() {
        let model = LatencyModel(parameters(), maxRunning: 1, seed: 1)
        #expect(model.loadFactor(running: 1) == 1)
    }

    @Test func jitterFollowsTheSeedAndStaysInBounds() {
        var jittery = parameters()
        jittery.jitter = 0.3
        var one = LatencyModel(jittery, maxRunning: 8, seed: 7)
        var same = LatencyModel(jittery, maxRunning: 8, seed: 7)
        var other = LatencyModel(jittery, maxRunning: 8, seed: 8)
        let first = (0..<2000).map { _ in one.step(running: 1) }
        #expect(first == (0..<2000).map { _ in same.step(running: 1) })
        #expect(first != (0..<2000).map { _ in other.step(running: 1) })
        let milliseconds = first.map { $0.seconds * 1e3 }
        #expect(milliseconds.allSatisfy { $0 >= 3 - 1e-6 && $0 <= 17 + 1e-6 })
        let mean = milliseconds.reduce(0, +) / 2000
        #expect(abs(mean - 10) < 0.3)
        let variance = milliseconds.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / 2000
        #expect(abs(variance.squareRoot() - 3) < 0.3)
    }

    @Test func everyConstantIsPrintedWithItsSource() {
        let lines = LatencyConstants.table.split(separator: "\n")
        #expect(lines.count == LatencyConstants.all.count)
        for (line, constant) in zip(lines, LatencyConstants.all) {
            #expect(line.contains(constant.name) && line.contains(constant.source))
        }
        #expect(LatencyConstants.table.contains("KV cache: 131072 bytes/token (Llama"))
    }
}
