import Bench
import Core
import Foundation
import Testing

@Suite struct OverloadTests {
    private static let bands = OverloadBand.three(overload: 2, high: 0.05, normal: 0.6)

    private func workload(
        _ bands: [OverloadBand] = Self.bands, seed: UInt64 = 1
    ) -> Workload {
        Workload(
            bands: bands, capacity: 100, seconds: 30, promptTokens: 20, outputTokens: 3, seed: seed)
    }

    @Test func bandsComeAsOftenAsTheyShould() {
        let items = workload().items
        #expect(Self.bands.map(\.share).reduce(0, +) == 2)
        for (index, band) in Self.bands.enumerated() {
            let own = items.filter { $0.band == index }
            let expected = band.share * 100 * 30
            // Five standard deviations of a Poisson distribution.
            #expect(abs(Double(own.count) - expected) < 5 * expected.squareRoot(), "\(band)")
            #expect(own.allSatisfy { $0.objective == band.name })
        }
        #expect(zip(items, items.dropFirst()).allSatisfy { $0.arrival <= $1.arrival })
        #expect(items.allSatisfy { (0..<30).contains($0.arrival) })
        #expect(workload().items == items)
        #expect(workload(seed: 2).items != items)
    }

    @Test func noPromptHasAPrefixInCommonWithAnother() {
        let items = workload().items
        #expect(Set(items.map { $0.tokens.prefix(16) }).count == items.count)
        #expect(items.allSatisfy { $0.tokens.count == 20 && $0.outputLength == 3 })
    }

    private func outcome(
        _ milliseconds: Int, status: Int? = 200, reason: String? = nil, failure: String? = nil,
        isAnswered: Bool = true
    ) -> Outcome {
        Outcome(
            timeToFirstToken: failure == nil ? .milliseconds(milliseconds) : nil,
            duration: .milliseconds(milliseconds + 5), failure: failure, status: status,
            dropReason: reason, isAnswered: isAnswered, lateness: .milliseconds(1))
    }

    @Test func everyEndIsCountedOnce() throws {
        let three = OverloadBand.three(overload: 2, high: 0.5, normal: 0.5)
        let all = workload(three)
        var outcomes = all.items.map { outcome($0.band == 0 ? 300 : 400) }
        let shed = all.items.indices.filter { all.items[$0].band == 2 }
        outcomes[shed[0]] = outcome(
            1, status: 429, reason: "rejected-saturated", failure: "status 429")
        outcomes[shed[1]] = outcome(1, status: 429, failure: "status 429")
        outcomes[shed[2]] = outcome(1, failure: "evicted")
        outcomes[shed[3]] = outcome(1, failure: "no [DONE]", isAnswered: false)
        outcomes[shed[4]] = outcome(1, status: nil, failure: "timed out", isAnswered: false)
        var report = OverloadReport(
            bands: three, workload: all, outcomes: outcomes,
            unloaded: (1...100).map { outcome($0 * 2) } + [outcome(9, failure: "x")],
            capacity: 100, seconds: 30)
        report.memoryBefore = 10_000_000
        report.peakMemory = 20_000_000
        #expect(report.unanswered == 2)
        #expect(report.bands.map(\.unanswered) == [0, 0, 2])
        #expect(
            report.bands[2].refused
                == ["429 rejected-saturated": 1, "429 -": 1, "200 broken-off": 1])
        #expect(report.bands[2].served == shed.count - 5)
        #expect(report.bands[0].slowdown == 300.0 / 198)
        #expect(report.bands[1].slowdown == nil)
        #expect(abs(report.overload - 2) < 0.2)
        #expect(report.goodput < report.overload)
        let json = try #require(
            try JSONSerialization.jsonObject(with: Data(report.json.utf8)) as? [String: Any])
        #expect(json["unanswered"] as? Int == 2)
        let bands = try #require(json["bands"] as? [[String: Any]])
        #expect(bands.map { $0["band"] as? String } == ["high", "normal", "sheddable"])
        #expect(bands[0]["ttft_p99_ms"] as? Double == 300)
        #expect(bands[0]["unloaded_ttft_p99_ms"] as? Double == 198)
        #expect(report.table.contains("200 broken-off: 1, 429 -: 1, 429 rejected-saturated: 1"))
        #expect(report.table.contains("10.0 MB before, 20.0 MB at most"))
    }

    /// What `docs/flow-control.md` shows is what is measured.
    @Test func theConfigurationIsTheDocumentedOne() throws {
        let root = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().deletingLastPathComponent()
        let page = try String(
            contentsOf: root.appending(path: "docs/flow-control.md"), encoding: .utf8)
        let text = OverloadConfiguration.text(engines: 8, bands: Self.bands)
        #expect(page.contains("```yaml\n\(text)```"))
    }
}
