import Core
import FlowControl
import Testing

@Suite struct SaturationTests {
    private func load(
        waiting: Int = 0, running: Int = 0, kvUsage: Double = 0, scraped: Double? = 0,
        inFlight: Int = 0, tokens: Int = 0, prompts: Int = 0, prefill: Bool = false,
        decode: Bool = true
    ) -> EndpointLoad {
        var load = EndpointLoad(takesPrefill: prefill, takesDecode: decode)
        load.waitingCount = waiting
        load.runningCount = running
        load.kvUsage = kvUsage
        load.scrapedAt = scraped.map(time)
        load.inFlightCount = inFlight
        load.inFlightTokens = tokens
        load.inFlightPrompts = prompts
        return load
    }

    private func pool(
        _ loads: [EndpointLoad], by detector: any SaturationDetector = UtilizationDetector(),
        unplaced tokens: [Int] = [], at now: Double = 0
    ) -> PoolSaturation {
        var pool = PoolSaturation()
        for load in loads { pool.add(load, by: detector, at: time(now)) }
        pool.unplaced.count = tokens.count
        pool.unplaced.used = tokens.reduce(0) { $0 + detector.use(byPromptTokens: $1) }
        return pool
    }

    @Test func utilizationIsTheMeanOfTheFullerOfQueueAndCache() {
        #expect(pool([load(waiting: 5)]).effective == 1)
        #expect(pool([load(kvUsage: 0.4)]).effective == 0.5)
        #expect(pool([load(waiting: 1, kvUsage: 0.4), load(waiting: 10)]).effective == 1.25)
    }

    @Test func stagesAreApartAndTheFullerCounts() {
        let prefill = load(waiting: 4, prefill: true, decode: false)
        let decode = load(waiting: 1)
        let both = load(waiting: 2, prefill: true)
        let two = pool([prefill, decode])
        #expect((two.prefill, two.decode, two.effective) == (0.8, 0.2, 0.8))
        let three = pool([prefill, decode, both])
        #expect(abs(three.prefill - 0.6) < 1e-9)
        #expect(abs(three.decode - 0.3) < 1e-9)
        // Nobody generates.
        #expect(pool([prefill]).effective == 1)
        #expect(!pool([prefill]).isPoolEmpty)
        // Nobody is there.
        #expect(pool([]).effective == 1)
        #expect(pool([]).isPoolEmpty)
    }

    @Test func lateMetricsAreHeldAndThenNotBelieved() {
        let idle = load()
        #expect(pool([idle], at: 5.2).effective == 0)
        #expect(pool([idle], at: 5.2).staleCount == 0)
        #expect(pool([idle], at: 5.3).effective == 1)
        #expect(pool([idle], at: 5.3).staleCount == 1)
        #expect(pool([load(scraped: nil)]).effective == 1)
    }

    @Test func whatWasSentSinceTheScrapeCounts() {
        let allowance = UtilizationDetector.minimumAllowance
        #expect(pool([load(inFlight: allowance)]).effective == 0)
        #expect(pool([load(inFlight: allowance + 5)]).effective == 1)
        // What the engine has reported is not counted twice.
        #expect(pool([load(waiting: 1, running: 90, inFlight: 91)]).effective == 0.2)
        // A busy engine takes as many again.
        #expect(pool([load(running: 90, inFlight: 180)]).effective == 0)
        // So do those that are on their way to some endpoint.
        let two = [load(inFlight: allowance - 2), load(inFlight: allowance)]
        #expect(pool(two, unplaced: [9, 9]).effective == 0)
        #expect(pool(two, unplaced: Array(repeating: 9, count: 12)).effective == 1)
    }

    @Test func ofLongPromptsFewStartAtOnce() {
        // Two of these fit into a step.
        #expect(pool([load(inFlight: 2, tokens: 8000, prompts: 2)]).effective == 0)
        #expect(pool([load(inFlight: 7, tokens: 28_000, prompts: 7)]).effective == 1)
        // One starts, however long it is.
        #expect(pool([load(inFlight: 2, tokens: 200_000, prompts: 2)]).effective == 0.2)
        // It goes by prompts that are yet to be computed, and not by all that run.
        let busy = load(running: 90, inFlight: 92, tokens: 8000, prompts: 2)
        #expect(pool([busy]).effective == 0)
        // Whole responses say nothing before their end: those that run do not wait.
        let whole = load(running: 20, inFlight: 22, tokens: 88_000, prompts: 22)
        #expect(pool([whole]).effective == 0)
        #expect(pool([whole], unplaced: [4000]).effective == 0.2)
    }

    @Test func concurrencyIsAggregate() {
        var detector = ConcurrencyDetector()
        detector.maxConcurrency = 10
        let two = [load(scraped: nil, inFlight: 9), load(scraped: nil, inFlight: 3)]
        #expect(pool(two, by: detector).effective == 0.6)
        #expect(pool(two, by: detector, unplaced: Array(repeating: 9, count: 8)).effective == 1)
        detector.mode = .tokens
        detector.maxTokenConcurrency = 1000
        let tokens = [load(inFlight: 2, tokens: 500), load(inFlight: 2, tokens: 300)]
        #expect(pool(tokens, by: detector).effective == 0.4)
        #expect(pool(tokens, by: detector, unplaced: [400, 200]).effective == 0.7)
        // A long prompt fills one endpoint.
        #expect(pool(tokens, by: detector, unplaced: [9000]).effective == 0.9)
        #expect(pool([load(tokens: 9000), load()], by: detector).effective == 0.5)
        detector.mode = .hybrid
        #expect(pool([load(inFlight: 5, tokens: 900)], by: detector).effective == 0.9)
        #expect(pool([load(inFlight: 5, tokens: 100)], by: detector).effective == 0.5)
        #expect(pool([load(inFlight: 5)], by: detector, unplaced: [200, 9]).effective == 0.8)
    }
}
