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
}
