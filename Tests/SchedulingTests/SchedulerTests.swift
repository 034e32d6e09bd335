import Core
import Scheduling
import Testing

@Suite struct SchedulerTests {
    private func scheduler(
        filters: [any Filter] = [], scorers: [SchedulingProfile.WeightedScorer] = [],
        plugins: [any Plugin] = []
    ) -> Scheduler {
        Scheduler(
            handler: FirstProfile(),
            profiles: [
                SchedulingProfile(
                    name: "default", filters: filters, scorers: scorers, picker: Ranking())
            ],
            plugins: plugins)
    }

    @Test func sumsClampedScoresByWeight() throws {
        var cycle = cycle(endpoints: endpoints(3))
        cycle.scoreRecords = []
        let scheduler = scheduler(scorers: [
            .init(TableScorer([0.5, 2, -1], name: "a"), weight: 2),
            .init(TableScorer([1, .nan, 0.25], name: "b"), weight: 3),
        ])
        let result = try scheduler.schedule(&cycle)
        #expect(
            result.primary == [
                ScoredCandidate(index: 0, score: 4), ScoredCandidate(index: 1, score: 2),
                ScoredCandidate(index: 2, score: 0.75),
            ])
        #expect(cycle.scoreRecords?.map(\.score) == [0.5, 1, 0, 1, 0, 0.25])
        #expect(cycle.scoreRecords?[3].scorer.name == "b")
    }

    @Test func picksOnlyWhatIsEligibleAndPassesFilters() throws {
        var cycle = cycle(endpoints: endpoints(6))
        cycle.eligible = [1, 2, 3, 4]
        let result = try scheduler(
            filters: [KeepEven()], scorers: [.init(TableScorer([1, 1, 0.1, 1, 0.2, 1]))]
        ).schedule(&cycle)
        #expect(result.primary.map(\.index) == [4, 2])
    }

    @Test func saysWhyNothingIsLeft() {
        var cycle = cycle(endpoints: endpoints(2))
        let filtered = scheduler(filters: [KeepEven(), KeepNone()])
        #expect(throws: SchedulingFailure.filtered(profile: "default", filter: "keep-none")) {
            try filtered.schedule(&cycle)
        }
        cycle.eligible = []
        #expect(throws: SchedulingFailure.noEndpoints) { try filtered.schedule(&cycle) }
    }

    @Test func aMatchIsForgottenBeforeTheNextRequest() throws {
        var cycle = cycle(endpoints: endpoints(2), tokens: [1])
        let scheduler = scheduler(plugins: [ConstantProducer()])
        #expect(scheduler.needsTokens)
        _ = try scheduler.schedule(&cycle)
        #expect(cycle.context.prefixMatch(by: "constant-producer")?.matchedBlocks == [3, 0])
        cycle.context.request.tokens = []
        _ = try scheduler.schedule(&cycle)
        #expect(cycle.context.prefixMatch(by: "constant-producer") == nil)
    }

    @Test func aScreenedPoolIsAnEmptyPool() throws {
        let scheduler = scheduler(plugins: [OnlyEndpoint(4)])
        var cycle = cycle(endpoints: endpoints(6))
        #expect(try scheduler.schedule(&cycle).primary.map(\.index) == [4])
        cycle.eligible = [1, 2]
        let failure = SchedulingFailure.screened(by: "only-endpoint")
        #expect(throws: failure) { try scheduler.schedule(&cycle) }
        #expect(failure.apiError.status == 503)
        #expect(failure.apiError.headers.first?.value == "rejected-no-endpoints")
    }

    @Test func anAdmitterSaysWhatTheClientIsTold() {
        let scheduler = scheduler(plugins: [Refusal()])
        var cycle = cycle(endpoints: endpoints(2))
        #expect(throws: SchedulingFailure.refused(by: "refusal", .badRequest("no"))) {
            try scheduler.schedule(&cycle)
        }
    }

    @Test(arguments: [
        ("x-llm-d-slo-ttft-ms", "x-llm-d-slo-tpot-ms"), ("x-slo-ttft-ms", "x-slo-tpot-ms"),
    ])
    func latencyObjectivesAreRead(ttft: String, tpot: String) throws {
        let scheduler = scheduler()
        var request = SchedulingRequest(
            id: "r", model: "m", headers: Headers(values: [ttft: "250.5", tpot: "20"]))
        try scheduler.process(&request)
        #expect(request.ttftObjective == .microseconds(250_500))
        #expect(request.tpotObjective == .milliseconds(20))
        for bad in ["fast", "0", "-1", "nan", "1e300"] {
            request.headers = Headers(values: [ttft: bad])
            do {
                try scheduler.process(&request)
                Issue.record("\(bad) was taken")
            } catch {
                #expect(error.apiError.status == 400)
                #expect(error.apiError.message.contains("'\(bad)'"))
            }
        }
    }

    @Test func theNewNameWins() throws {
        let request = SchedulingRequest(
            id: "r", model: "m",
            headers: Headers(values: [
                "x-llm-d-inference-objective": "new", "x-gateway-inference-objective": "old",
                "x-gateway-inference-fairness-id": "tenant", "x-llm-d-inference-fairness-id": "",
            ]))
        #expect(request.objectiveName == "new")
        #expect(request.fairnessID == "tenant")
    }

    @Test func ifAvailableNeedsAHit() throws {
        let scheduler = scheduler(
            scorers: [.init(TableScorer([1, 0]))], plugins: [ConstantProducer()])
        var cycle = cycle(endpoints: endpoints(2), tokens: [1])
        cycle.context.request.headers = Headers(values: ["prefer": "wait=1, If-Available"])
        _ = try scheduler.schedule(&cycle)
        cycle.context.request.tokens = []
        do {
            _ = try scheduler.schedule(&cycle)
            Issue.record("a pool without the prompt was taken")
        } catch {
            #expect(error.apiError.status == 412)
        }
        cycle.context.request.headers = Headers(values: ["prefer": "if-availableish"])
        _ = try scheduler.schedule(&cycle)
    }

    @Test func decisionsAreDeterminedByTheSeed() {
        var first = SchedulingContext(request: cycle(endpoints: []).context.request)
        first.seed = 7
        var a = first.random(salt: "a")
        var again = first.random(salt: "a")
        var b = first.random(salt: "b")
        let value = a.next()
        #expect(value == again.next())
        #expect(value != b.next())
    }
}

private final class OnlyEndpoint: Screener {
    let name = PluginName(type: "only-endpoint")
    let endpoint: Int
    init(_ endpoint: Int) { self.endpoint = endpoint }
    func screen(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { $0 != endpoint }
    }
}

private final class Refusal: Admitter {
    let name = PluginName(type: "refusal")
    func admit(
        _ candidates: [Int], in context: SchedulingContext
    ) throws(SchedulingFailure) {
        throw .refused(by: name.name, .badRequest("no"))
    }
}
