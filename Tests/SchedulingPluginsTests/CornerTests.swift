import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Testing

/// Parameters and limits of plugins that the suites of their kinds leave out.
@Suite struct CornerTests {
    private func scheduler(_ plugins: String, _ profiles: String = "") throws -> Scheduler {
        try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                \(plugins)
                \(profiles.isEmpty ? "" : "schedulingProfiles:\n\(profiles)")
                """, file: "t.yaml", registry: .standard)
    }

    // MARK: - Handlers

    private static let stages = """
        - {type: decode-filter}
        - {type: prefill-filter}
        - {type: encode-filter}
        - {type: topology-affinity-scorer}
        - {type: always-disagg-pd-decider}
        - {type: always-disagg-multimodal-decider}
        """
    private static let stageProfiles = """
        - {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: topology-affinity-scorer}]}
        - {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: topology-affinity-scorer}]}
        - {name: encode, plugins: [{pluginRef: encode-filter}]}
        """

    /// One endpoint of the stage that comes first, two of the other, one of them on its host.
    @Test(arguments: [
        ("decode-first", ["decode", "prefill", "prefill"]),
        ("prefill-first", ["prefill", "decode", "decode"]),
    ])
    func theSecondStageIsNearTheFirst(order: String, roles: [String]) throws {
        let scheduler = try scheduler(
            Self.stages + "\n- {type: disagg-profile-handler, parameters: "
                + "{stageOrder: \(order), deciders: {prefill: always-disagg-pd-decider}}}",
            Self.stageProfiles)
        for seed in 0..<20 as Range<UInt64> {
            var cycle = cycle(roles, hosts: ["h0", "h1", "h0"], seed: seed)
            let result = try scheduler.schedule(&cycle)
            let pair = [result.primary[0].index, result.prefill.first?.index]
            #expect(pair == (order == "decode-first" ? [0, 2] : [2, 0]), "seed \(seed)")
        }
    }

    @Test func whoDecodesDoesNotEncodeForItself() throws {
        let scheduler = try scheduler(
            Self.stages + "\n- {type: disagg-profile-handler, parameters: "
                + "{deciders: {encode: always-disagg-multimodal-decider}}}", Self.stageProfiles)
        var cycle = cycle(["encode-prefill-decode"], hosts: ["h0"], seed: 1)
        cycle.context.request.media = [MediaItem(kind: .image, identifier: 1)]
        #expect(try scheduler.schedule(&cycle).encode.isEmpty)
    }

    private func cycle(_ roles: [String], hosts: [String], seed: UInt64) -> SchedulingCycle {
        let pool = context(
            count: roles.count,
            labels: zip(roles, hosts).map { ["llm-d.ai/role": $0, "kubernetes.io/hostname": $1] })
        var cycle = SchedulingCycle(request: pool.request, seed: seed)
        cycle.context = pool
        cycle.eligible = Array(roles.indices)
        return cycle
    }

    @Test func aSingleProfileIsOne() {
        #expect {
            try scheduler(
                "- {type: queue-scorer}", "- {name: a, plugins: []}\n- {name: b, plugins: []}")
        } throws: { "\($0)".contains("single-profile-handler runs one profile, not 2") }
    }

    // MARK: - Filters

    @Test func headroomLetsMoreThrough() throws {
        let filter = try plugin(
            "concurrency-detector", "{maxConcurrency: 10, headroom: 0.5}",
            as: ConcurrencyDetectorPlugin.self)
        #expect(filter.kept(in: context(count: 4, inFlight: [9, 12, 15, 16])) == [0, 1])
    }

    @Test(arguments: [("true", [0, 2]), ("false", [0])])
    func theFirstLabelFilterMayTakeNone(allows: String, kept: [Int]) throws {
        let scheduler = try scheduler(
            "- type: by-label\n  parameters: "
                + "{label: a, validValues: [x], allowsNoLabel: \(allows)}")
        let pool = context(count: 3, labels: [["a": "x"], ["a": "y"], [:]])
        #expect(scheduler.profiles[0].filters[0].kept(in: pool) == kept)
    }

    @Test(arguments: [
        ("LessThan", [0]), ("LessThanOrEqual", [0, 1]), ("GreaterThan", [2]),
        ("GreaterThanOrEqual", [1, 2]), ("Equal", [1]), ("NotEqual", [0, 2]),
    ])
    func attributesAreComparedAsTold(comparison: String, kept: [Int]) throws {
        let filter = try plugin(
            "endpoint-attribute-filter",
            "{attribute: WaitingQueueSize, algorithm: {type: threshold, threshold: "
                + "{operator: \(comparison), value: 2}}}", as: EndpointAttributeFilter.self)
        let pool = context(count: 3, loads: [1, 2, 3].map { load(waiting: $0) })
        #expect(filter.kept(in: pool) == kept)
    }

    @Test func bothObjectivesCount() throws {
        let filter = try plugin(
            "slo-headroom-tier-filter", "{epsilonExploreNeg: 0}", as: SLOHeadroomTierFilter.self)
        var pool = context(count: 2)
        pool.predictions = [5, 50].map {
            LatencyPrediction(ttftMilliseconds: 10, tpotMilliseconds: $0)
        }
        pool.request.tpotObjective = .milliseconds(20)
        #expect(filter.kept(in: pool) == [0])
    }

    // MARK: - Scorers

    @Test func whatAllHaveInCommonTellsNothing() throws {
        let scorer = try plugin("latency-scorer", as: LatencyScorer.self)
        var pool = context(count: 3)
        pool.request.ttftObjective = .milliseconds(100)
        pool.request.tpotObjective = .milliseconds(100)
        pool.predictions = [10, 20, 30].map {
            LatencyPrediction(ttftMilliseconds: 50, tpotMilliseconds: $0)
        }
        expect(scorer.scores(in: pool), [0.01, 0.505, 1])
    }

    @Test func coldPromptsAreRememberedAsFarAsAllowed() throws {
        let wide = try plugin("no-hit-lru-scorer", as: NoHitLRUScorer.self)
        let pool = context(count: 3)
        _ = wide.headers(after: result(0, prefill: 1), in: pool)
        expect(wide.scores(in: pool), [0.5, 0, 1])
        let narrow = try plugin("no-hit-lru-scorer", "{lruSize: 1}", as: NoHitLRUScorer.self)
        _ = narrow.headers(after: result(0, prefill: 1), in: pool)
        expect(narrow.scores(in: pool), [1, 0, 1])
    }

    @Test func racksCountWhereTheyAreNamed() throws {
        let scheduler = try scheduler(
            "- {type: topology-extractor, parameters: {rack: rack}}\n"
                + "- {type: topology-affinity-scorer}")
        var pool = context(
            count: 5,
            labels: [
                ["kubernetes.io/hostname": "h", "rack": "r", "topology.kubernetes.io/region": "e"],
                ["kubernetes.io/hostname": "h", "rack": "r"],
                ["kubernetes.io/hostname": "i", "rack": "r"], ["rack": "s"],
                ["topology.kubernetes.io/region": "e"],
            ])
        pool.peer = 0
        expect(scheduler.profiles[0].scorers[0].scorer.scores(in: pool), [1, 1, 0.2, 0, 0.02])
    }

    // MARK: - Sessions

    private func session(_ id: String, _ context: SchedulingContext) -> SchedulingContext {
        var context = context
        context.header("x-session-id", id)
        return context
    }

    @Test func sessionsWithoutANameAreNone() throws {
        let filter = try plugin(
            "session-affinity-filter", "{strategy: session_id}", as: SessionAffinityFilter.self)
        let pool = session("", context(count: 2))
        _ = filter.headers(after: result(1), in: pool)
        #expect(filter.kept(in: pool) == [0, 1])
    }

    @Test func sessionsMayStickToWhoPrefills() throws {
        let filter = try plugin(
            "session-affinity-filter", "{strategy: session_id, profileName: prefill}",
            as: SessionAffinityFilter.self)
        let pool = session("s", context(count: 2))
        _ = filter.headers(after: result(0, prefill: 1), in: pool)
        #expect(filter.kept(in: pool) == [1])
    }

    @Test func theScorerRemembersSessions() throws {
        let scorer = try plugin(
            "session-affinity-scorer", "{strategy: session_id}", as: SessionAffinityScorer.self)
        let pool = session("s", context(count: 3))
        _ = scorer.headers(after: result(1), in: pool)
        expect(scorer.scores(in: pool), [0, 1, 0])
    }

    @Test func theOldestSessionsGoWhenThereAreTooMany() throws {
        let filter = try plugin(
            "session-affinity-filter", "{strategy: session_id}", as: SessionAffinityFilter.self)
        var pool = context(count: 2)
        for number in 0..<65_538 {
            pool.now = MonotonicTime(nanoseconds: UInt64(number))
            pool.header("x-session-id", "s\(number)")
            _ = filter.headers(after: result(1), in: pool)
        }
        #expect(filter.kept(in: session("s0", pool)) == [0, 1])
        #expect(filter.kept(in: session("s65537", pool)) == [1])
    }

    @Test func emptyHeadersNameNoAgent() throws {
        let processor = try plugin("agent-identity", as: AgentIdentity.self)
        var request = context(count: 0).request
        request.headers = Headers(
            values: ["x-claude-code-session-id": "", "session-id": "s", "session_id": "t"])
        processor.process(&request)
        #expect(request.agentIdentity == "s")
    }

    // MARK: - Producers

    private func prompt(_ context: SchedulingContext, _ text: String) -> SchedulingContext {
        var context = context
        context.request.promptText = PromptText(
            body: Array(text.utf8), ranges: [0..<text.utf8.count])
        return context
    }

    private func matched(_ producer: some DataProducer, _ context: SchedulingContext) -> [Int] {
        var context = context
        producer.produce(into: &context)
        return context.prefixMatch(by: producer.name.name)?.matchedBlocks ?? []
    }

    private func remember(
        _ producer: some DataProducer & PreRequest, _ result: SchedulingResult,
        _ context: SchedulingContext
    ) {
        var context = context
        producer.produce(into: &context)
        _ = producer.headers(after: result, in: context)
    }

    @Test func prefixesHaveALongestLength() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer",
            "{maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 3}",
            as: ApproxPrefixCacheProducer.self)
        var pool = context(count: 1)
        pool.request.tokens = Array(0..<640)
        producer.produce(into: &pool)
        #expect(pool.prefixMatch(by: "subject")?.totalBlocks == 3)
    }

    /// 64 tokens of 4 bytes, and one byte more.
    @Test func theLastBytesOfATextCount() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        let text = String(repeating: "x", count: 256)
        let pool = context(count: 1)
        remember(producer, result(0), prompt(pool, text + "a"))
        #expect(matched(producer, prompt(pool, text + "a")) == [2])
        #expect(matched(producer, prompt(pool, text + "b")) == [1])
    }

    /// A decision about an older pool ends after one about a newer.
    @Test func anOlderPoolForgetsNobody() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        let text = String(repeating: "x", count: 256)
        var (new, old) = (prompt(context(count: 2), text), prompt(context(count: 1), text))
        (new.poolGeneration, old.poolGeneration) = (5, 4)
        remember(producer, result(1), new)
        #expect(matched(producer, old) == [0])
        #expect(matched(producer, new) == [0, 1])
    }

    @Test func burstsFollowWhoPrefills() throws {
        let producer = try plugin(
            "burst-prefix-cache-producer", as: BurstPrefixCacheProducer.self)
        let pool = prompt(context(count: 2), String(repeating: "x", count: 512))
        remember(producer, result(0, prefill: 1), pool)
        #expect(matched(producer, pool) == [0, 2])
    }

    /// 2 MiB for each item.
    @Test func cachesOfMediaHaveASize() throws {
        let producer = try plugin(
            "mm-embeddings-cache-producer", "{cacheSizeInMBPerServer: 4}",
            as: MMEmbeddingsCacheProducer.self)
        var pool = context(count: 1)
        pool.request.media = (0..<3).map { MediaItem(kind: .image, identifier: $0) }
        remember(producer, result(0), pool)
        producer.produce(into: &pool)
        #expect(pool.mediaMatch(by: "subject")?.matchedSizes == [2])
    }

    @Test func imagesMayCountTheSame() throws {
        let producer = try plugin(
            "token-producer", "{estimate: {image: {mode: static, static: {staticToken: 100}}}}",
            as: TokenProducer.self)
        var pool = context(count: 1, promptTokenCount: 10)
        pool.request.media = (0..<2).map { MediaItem(kind: .image, identifier: $0) }
        var known = pool
        known.request.tokens = [1, 2, 3]
        producer.produce(into: &pool)
        #expect(pool.request.promptTokenCount == 210)
        // Tokens that are known hold the images.
        producer.produce(into: &known)
        #expect(known.request.promptTokenCount == 10)
    }

    @Test(arguments: [(48, true), (49, false)])
    func aSourceMustHoldEnoughMore(delta: Int, names: Bool) throws {
        let producer = try plugin(
            "p2p-source-producer", "{minCachedTokenDelta: \(delta)}", as: P2PSourceProducer.self)
        var pool = context(count: 2)
        pool.match([0, 3], of: 4)
        let name = "x-kv-cache-source-host-port"
        #expect(
            producer.headers(after: result(0), in: pool)
                == [names ? .set(name: name, value: "10.0.0.1:8000") : .remove(name: name)])
    }

    // MARK: - Admitters, pickers

    @Test func whoToldNothingIsFull() throws {
        let admitter = try plugin("probabilistic-admitter", as: ProbabilisticAdmitter.self)
        var pool = context(count: 2)
        pool.request.priority = -1
        #expect(throws: SchedulingFailure.self) { try admitter.admit([0, 1], in: pool) }
        for index in 0..<2 { pool.loads[index].scrapedAt = pool.now }
        try admitter.admit([0, 1], in: pool)
    }

    @Test func randomPicksAreAsManyAsTold() throws {
        let picker = try plugin("random-picker", "{maxNumOfEndpoints: 2}", as: RandomPicker.self)
        var random = RandomSource(seed: 1)
        var candidates = (0..<5).map { ScoredCandidate(index: $0, score: 0) }
        picker.pick(&candidates, random: &random)
        #expect(candidates.count == 2 && candidates[0].index != candidates[1].index)
    }
}
