import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct ScorerTests {
    @Test(arguments: [([0, 5, 10], [1, 0.5, 0]), ([7, 7], [1, 1]), ([3], [1])])
    func fewestWaitingAndRunning(counts: [Int], expected: [Double]) throws {
        let waiting = context(count: counts.count, loads: counts.map { load(waiting: $0) })
        expect(try plugin("queue-scorer", as: QueueScorer.self).scores(in: waiting), expected)
        let running = context(count: counts.count, loads: counts.map { load(running: $0) })
        expect(
            try plugin("running-requests-size-scorer", as: RunningRequestsScorer.self)
                .scores(in: running), expected)
    }

    @Test func freeCache() throws {
        let pool = context(count: 3, loads: [0, 0.25, 1].map { load(kvUsage: $0) })
        expect(
            try plugin("kv-cache-utilization-scorer", as: KVCacheUtilizationScorer.self)
                .scores(in: pool), [1, 0.75, 0])
    }

    @Test func loadAware() throws {
        let pool = context(count: 4, loads: [0, 32, 128, 500].map { load(waiting: $0) })
        expect(
            try plugin("load-aware-scorer", as: LoadAwareScorer.self).scores(in: pool),
            [0.5, 0.375, 0, 0])
        expect(
            try plugin("load-aware-scorer", "{threshold: 64}", as: LoadAwareScorer.self)
                .scores(in: pool), [0.5, 0.25, 0, 0])
    }

    @Test func activeRequests() throws {
        let pool = context(count: 4, inFlight: [0, 1, 2, 4])
        expect(
            try plugin("active-request-scorer", as: ActiveRequestScorer.self).scores(in: pool),
            [1, 0.75, 0.5, 0])
        expect(
            try plugin(
                "active-request-scorer", "{idleThreshold: 1, maxBusyScore: 0.5}",
                as: ActiveRequestScorer.self
            ).scores(in: pool), [1, 1, 0.25, 0])
    }

    @Test func tokensInFlight() throws {
        let pool = context(count: 4, prefillTokensInFlight: [0, 250, 1000, 5000])
        expect(
            try plugin(
                "token-load-scorer", "{queueThresholdTokens: 1000}", as: TokenLoadScorer.self
            ).scores(in: pool), [1, 0.75, 0, 0])
    }

    @Test func prefillCost() throws {
        var pool = context(
            count: 3, prefillTokensInFlight: [99, 0, 199], promptTokenCount: 100)
        let scorer = try plugin("prefill-cost-scorer", as: PrefillCostScorer.self)
        // Nothing is cached: 199, 100 and 299 tokens.
        expect(scorer.scores(in: pool), [101.0 / 200, 1, 101.0 / 300])
        // 96 of 100 tokens at the busiest, 64 at the first: 135, 100, 203.
        let slot = pool.resetPrefixMatch(by: "approx-prefix-cache-producer", blockSize: 16)
        pool.prefixMatches[slot].totalBlocks = 6
        pool.prefixMatches[slot].matchedBlocks = [4, 0, 6]
        expect(scorer.scores(in: pool), [101.0 / 136, 1, 101.0 / 204])
    }

    @Test func prefillCostOfWhatOthersSent() throws {
        var pool = context(
            count: 3, inFlight: [2, 0, 1], prefillTokensInFlight: [500, 0, 100],
            promptTokenCount: 100)
        pool.othersInFlight = [0, 3, 1]
        let scorer = try plugin("prefill-cost-scorer", as: PrefillCostScorer.self)
        // Each of theirs counts as one of the three of ours, 200 tokens: 600, 700 and 400.
        expect(scorer.scores(in: pool), [401.0 / 601, 401.0 / 701, 1])
        // Without ours, as this prompt: 100, 400 and 200.
        pool.inFlight = [0, 0, 0]
        pool.prefillTokensInFlight = [0, 0, 0]
        expect(scorer.scores(in: pool), [1, 101.0 / 401, 101.0 / 201])
    }

    @Test func prefixCache() throws {
        var pool = context(count: 3)
        let scorer = try plugin("prefix-cache-scorer", as: PrefixCacheScorer.self)
        expect(scorer.scores(in: pool), [0, 0, 0])

        let slot = pool.resetPrefixMatch(by: "approx-prefix-cache-producer", blockSize: 16)
        pool.prefixMatches[slot].totalBlocks = 8
        pool.prefixMatches[slot].weightedBlocks = [8, 3.2, 0]
        expect(scorer.scores(in: pool), [1, 0.4, 0])

        // 0.5 * min(1, blocks * 16 / 64)^2 + 0.5 * blocks / 8
        let weighted = try plugin(
            "prefix-cache-scorer", "{matchLengthWeight: 0.5, matchLengthScaleTokens: 64}",
            as: PrefixCacheScorer.self)
        expect(weighted.scores(in: pool), [1, 0.5 * 0.64 + 0.2, 0])
    }

    @Test func prefixCacheNeedsAProducer() {
        #expect(throws: (any Error).self) {
            try plugin(
                "prefix-cache-scorer", "{prefixMatchInfoProducerName: none}",
                as: PrefixCacheScorer.self)
        }
        #expect(throws: (any Error).self) {
            try plugin(
                "prefix-cache-scorer", "{prefixMatchInfoProducerName: always-disagg-pd-decider}",
                as: PrefixCacheScorer.self)
        }
    }
}
