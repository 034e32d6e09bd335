import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Testing

/// Whatever is configured: a pick was eligible, passed every filter, and has the highest sum of
/// weighted scores.
@Suite struct PipelinePropertyTests {
    private static let filters = [
        "decode-filter", "prefix-cache-affinity-filter", "utilization-detector",
        "session-affinity-filter", "context-length-aware",
    ]
    private static let scorers = [
        "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer",
        "prefix-cache-scorer", "load-aware-scorer", "active-request-scorer", "token-load-scorer",
        "prefill-cost-scorer", "lora-affinity-scorer", "no-hit-lru-scorer",
        "session-affinity-scorer", "latency-scorer",
    ]

    @Test func picksAreBestOfWhatPasses() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("PipelinePropertyTests seed \(seed)")
        var random = RandomSource(seed: seed)
        for round in 0..<60 {
            let filters = Self.filters.filter { _ in Bool.random(using: &random) }
            let scorers = Self.scorers.filter { _ in Bool.random(using: &random) }
            let weights = scorers.map { _ in Double(Int.random(in: 1...5, using: &random)) }
            let scheduler = try EndpointPickerConfig.scheduler(
                parsing: Self.config(filters, scorers, weights), file: "t.yaml",
                registry: .standard)
            for _ in 0..<20 {
                try check(scheduler, &random, "seed \(seed), round \(round)")
            }
        }
    }

    private static func config(
        _ filters: [String], _ scorers: [String], _ weights: [Double]
    ) -> String {
        var lines = ["apiVersion: llm-d.ai/v1alpha1", "kind: EndpointPickerConfig", "plugins:"]
        lines += (filters + scorers + ["max-score-picker"]).map { "- type: \($0)" }
        lines += ["schedulingProfiles:", "- name: only", "  plugins:"]
        lines += filters.map { "  - pluginRef: \($0)" }
        lines += zip(scorers, weights).map { "  - {pluginRef: \($0), weight: \($1)}" }
        lines.append("  - pluginRef: max-score-picker")
        return lines.joined(separator: "\n")
    }

    private func check(
        _ scheduler: Scheduler, _ random: inout RandomSource, _ hint: Comment
    ) throws {
        var cycle = cycle(&random)
        cycle.scoreRecords = []
        let eligible = Set(cycle.eligible)
        let outcome = Result { () throws(SchedulingFailure) in
            try scheduler.schedule(&cycle)
        }
        if case .failure(.filtered) = outcome { return }
        let result = try outcome.get()
        let pick = try #require(result.primary.first)
        let profile = scheduler.profiles[0]
        var left = Array(eligible).sorted()
        for filter in profile.filters { filter.filter(&left, in: cycle.context) }
        #expect(eligible.contains(pick.index), hint)
        #expect(left.contains(pick.index), hint)

        var sums: [Int: Double] = [:]
        for candidate in left { sums[candidate] = 0 }
        let weights = Dictionary(
            uniqueKeysWithValues: profile.scorers.map { ($0.scorer.name.name, $0.weight) })
        for record in cycle.scoreRecords ?? [] {
            #expect((0...1).contains(record.score), hint)
            sums[record.candidate, default: 0] += record.score * (weights[record.scorer.name] ?? 0)
        }
        #expect(Set(sums.keys) == Set(left), hint)
        let best = sums.values.max() ?? 0
        #expect(abs((sums[pick.index] ?? -1) - best) < 1e-9, hint)
        _ = scheduler.prepare(result, in: cycle.context)
    }

    private func cycle(_ random: inout RandomSource) -> SchedulingCycle {
        let count = Int.random(in: 1...9, using: &random)
        var loads: [ServerLoad] = []
        for _ in 0..<count {
            var load = load(
                waiting: Int.random(in: 0...8, using: &random),
                running: Int.random(in: 0...8, using: &random),
                kvUsage: Double.random(in: 0...1, using: &random))
            load.scrapedAt = .now
            if Bool.random(using: &random) {
                load.lora = LoRALoad(
                    maximumCount: 2, running: Bool.random(using: &random) ? ["m"] : ["a", "b"])
            }
            loads.append(load)
        }
        let roles = ["decode", "prefill", "both"]
        var pool = context(
            count: count,
            labels: (0..<count).map { _ in
                [
                    "llm-d.ai/role": roles.randomElement(using: &random) ?? "both",
                    "llm-d.ai/context-length-range": "0-\(Int.random(in: 1...300, using: &random))",
                ]
            }, loads: loads,
            inFlight: (0..<count).map { _ in Int.random(in: 0...5, using: &random) },
            prefillTokensInFlight: (0..<count).map { _ in
                Int.random(in: 0...500_000, using: &random)
            })
        // Few prompts, so that they come again.
        let prompt = UInt32.random(in: 0..<3, using: &random)
        pool.request.tokens = (0..<200).map { $0 + 1000 * prompt }
        pool.request.promptTokenCount = 200
        pool.header("x-session-token", Bool.random(using: &random) ? "ZTA=" : nil)
        var cycle = SchedulingCycle(request: pool.request, seed: random.next())
        cycle.context = pool
        cycle.eligible = (0..<count).filter { _ in Int.random(in: 0..<4, using: &random) > 0 }
        if cycle.eligible.isEmpty { cycle.eligible = [0] }
        return cycle
    }
}
