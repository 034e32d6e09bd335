import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct AffinityScorerTests {
    @Test func lora() throws {
        func load(_ maximum: Int, _ running: [String], _ waiting: [String] = []) -> ServerLoad {
            var load = ServerLoad()
            load.lora = LoRALoad(maximumCount: maximum, running: running, waiting: waiting)
            return load
        }
        let pool = context(
            count: 6,
            loads: [
                load(2, ["m", "a"]), load(2, ["a"]), load(2, ["a", "b"], ["m"]),
                load(2, ["a"], ["b"]), load(0, []), ServerLoad(),
            ])
        expect(
            try plugin("lora-affinity-scorer", as: LoRAAffinityScorer.self).scores(in: pool),
            [1, 0.8, 0.6, 0, 0, 0])
    }

    @Test func coldPromptsGoWhereNoneWentForLong() throws {
        var pool = context(count: 3)
        let scorer = try plugin("no-hit-lru-scorer", as: NoHitLRUScorer.self)
        expect(scorer.scores(in: pool), [1, 1, 1])
        scorer.remember(1, pool)
        expect(scorer.scores(in: pool), [1, 0, 1])
        scorer.remember(0, pool)
        // 2 never got one, 1 before 0.
        expect(scorer.scores(in: pool), [0, 0.5, 1])
        scorer.remember(2, pool)
        expect(scorer.scores(in: pool), [0.5, 1, 0])
        // A prompt that somebody holds counts neither here nor for the next.
        pool.match([2, 0, 0], of: 4)
        expect(scorer.scores(in: pool), [0.5, 0.5, 0.5])
        scorer.remember(1, pool)
        pool.match([0, 0, 0], of: 4)
        expect(scorer.scores(in: pool), [0.5, 1, 0])
    }

    @Test func theOldestEndpointIsForgottenFirst() throws {
        let pool = context(count: 3)
        let scorer = try plugin("no-hit-lru-scorer", "{lruSize: 2}", as: NoHitLRUScorer.self)
        for endpoint in [0, 1, 2] { scorer.remember(endpoint, pool) }
        expect(scorer.scores(in: pool), [1, 0.5, 0])
    }

    @Test func headerAndLabel() throws {
        var pool = context(count: 3, labels: [["zone": "a"], ["zone": "b"], [:]])
        let scorer = try plugin(
            "header-label-affinity-scorer", "{headerName: X-Zone, labelKey: zone}",
            as: HeaderLabelAffinityScorer.self)
        expect(scorer.scores(in: pool), [0, 0, 0])
        pool.header("x-zone", "b")
        expect(scorer.scores(in: pool), [0, 1, 0])

        let routed = RoutedRequest(pool.request, result(0), endpoints: pool.endpoints)
        func stamped(_ server: Int, _ scorer: HeaderLabelAffinityScorer) -> [HeaderMutation] {
            var headers: [HeaderMutation] = []
            scorer.responseStarted(
                ResponseHead(status: 200, server: pool.endpoints[server]), to: routed,
                headers: &headers)
            return headers
        }
        #expect(stamped(0, scorer) == [.set(name: "x-zone", value: "a")])
        #expect(stamped(2, scorer) == [])
        let silent = try plugin(
            "header-label-affinity-scorer",
            "{headerName: x-zone, labelKey: zone, stampResponseHeader: false}",
            as: HeaderLabelAffinityScorer.self)
        #expect(stamped(0, silent) == [])
    }

    @Test func contextLength() throws {
        func label(_ text: String) -> [String: String] {
            ["llm-d.ai/context-length-range": text]
        }
        let pool = context(
            count: 6,
            labels: [
                label("0-2048"), label("0-10000"), label("8192-16384"), [:], label("1000-1000"),
                label("high"),
            ], promptTokenCount: 1000)
        func inside(_ width: Double, _ room: Double) -> Double {
            0.3 + 0.7 * (0.7 / (1 + width / 10_000) + 0.3 * room / width)
        }
        let scorer = try plugin("context-length-aware", as: ContextLengthAware.self)
        expect(
            scorer.scores(in: pool),
            [inside(2048, 1048), inside(10_000, 9000), 0.3 / (1 + 7.192), 0.5, 1, 0])
        #expect(scorer.kept(in: pool) == [0, 1, 2, 3, 4, 5])
        let filter = try plugin(
            "context-length-aware", "{enableFiltering: true}", as: ContextLengthAware.self)
        #expect(filter.kept(in: pool) == [0, 1, 3, 4])
    }

    @Test func attributes() throws {
        var loads = (0..<4).map { _ in ServerLoad() }
        for (i, value) in [10.0, 30, 20].enumerated() { loads[i].attributes["depth"] = value }
        let pool = context(count: 4, loads: loads)
        func scores(_ parameters: String) throws -> [Double] {
            try plugin(
                "endpoint-attribute-scorer", parameters, as: EndpointAttributeScorer.self
            ).scores(in: pool)
        }
        expect(
            try scores("{attributeKey: depth, algorithm: {type: linear_lower_is_better}}"),
            [1, 0, 0.5, 0])
        expect(
            try scores("{attributeKey: depth, algorithm: {type: linear_higher_is_better}}"),
            [0, 1, 0.5, 0])
        expect(
            try scores(
                "{attributeKey: depth, algorithm: {type: linear_lower_is_better, "
                    + "normalization: {fixedRange: {min: 0, max: 20}}}}"), [0.5, 0, 0, 0])
        expect(
            try scores(
                "{attributeKey: WaitingQueueSize, algorithm: {type: linear_lower_is_better}}"),
            [1, 1, 1, 1])
        #expect(throws: (any Error).self) {
            try scores("{attributeKey: x, algorithm: {type: linear}}")
        }
    }

    @Test func nearnessToTheEarlierPick() throws {
        func labels(_ host: String, _ zone: String, _ region: String) -> [String: String] {
            [
                "kubernetes.io/hostname": host, "topology.kubernetes.io/zone": zone,
                "topology.kubernetes.io/region": region,
            ]
        }
        var pool = context(
            count: 5,
            labels: [
                labels("h1", "z1", "r1"), labels("h1", "z1", "r1"), labels("h2", "z1", "r1"),
                labels("h3", "z2", "r1"), labels("", "", ""),
            ])
        let scorer = try plugin("topology-affinity-scorer", as: TopologyAffinityScorer.self)
        let filter = try plugin("topology-affinity-filter", as: TopologyAffinityFilter.self)
        let zone = try plugin(
            "topology-affinity-filter", "{minAffinity: zone}", as: TopologyAffinityFilter.self)
        expect(scorer.scores(in: pool), [0, 0, 0, 0, 0])
        #expect(filter.kept(in: pool) == [0, 1, 2, 3, 4])
        pool.peer = 0
        expect(scorer.scores(in: pool), [1, 1, 0.05, 0.02, 0])
        #expect(filter.kept(in: pool) == [0, 1])
        #expect(zone.kept(in: pool) == [0, 1, 2])
        // Empty labels are no place, and nothing near keeps all.
        pool.peer = 4
        expect(scorer.scores(in: pool), [0, 0, 0, 0, 0])
        #expect(filter.kept(in: pool) == [0, 1, 2, 3, 4])
    }

    @Test func mediaEncodedBefore() throws {
        var pool = context(count: 3)
        let producer = try plugin(
            "mm-embeddings-cache-producer", "{cacheSizeInMBPerServer: 4}",
            as: MMEmbeddingsCacheProducer.self)
        let scorer = try plugin(
            "mm-embeddings-cache-scorer", "{mmEmbeddingsCacheProducerName: media-stub}",
            as: MMEmbeddingsCacheScorer.self)
        func item(_ identifier: UInt64, size: Int = 1) -> MediaItem {
            MediaItem(kind: .image, identifier: identifier, size: size)
        }
        pool.request.media = [item(1), item(2)]
        _ = producer.headers(after: result(0, encode: [1]), in: pool)
        _ = producer.headers(after: result(2), in: pool)
        pool.request.media = [item(1), item(3, size: 3)]
        producer.produce(into: &pool)
        let match = try #require(pool.mediaMatch(by: "subject"))
        #expect(match.matchedSizes == [0, 1, 1])
        #expect(match.totalSize == 4)
        expect(scorer.scores(in: pool), [0, 0, 0])
        let slot = pool.resetMediaMatch(by: "media-stub")
        pool.mediaMatches[slot].totalSize = 4
        pool.mediaMatches[slot].matchedSizes = [0, 1, 4]
        expect(scorer.scores(in: pool), [0, 0.25, 1])
    }

    @Test func latencyByTiers() throws {
        var pool = context(count: 4, inFlight: [1, 1, 1, 0])
        pool.request.ttftObjective = .milliseconds(100)
        pool.request.tpotObjective = .milliseconds(10)
        func prediction(_ ttft: Double, _ tpot: Double) -> LatencyPrediction {
            LatencyPrediction(ttftMilliseconds: ttft, tpotMilliseconds: tpot)
        }
        let scorer = try plugin("latency-scorer", as: LatencyScorer.self)
        let most = try plugin(
            "latency-scorer", "{headroomSelectionStrategy: most}", as: LatencyScorer.self)

        // Only those that meet both objectives count: nearest to them first.
        pool.predictions = [prediction(90, 9), prediction(50, 5), prediction(10, 20), nil]
        pool.predictions[3] = prediction(200, 1)
        expect(scorer.scores(in: pool), [1, 0.01, 0, 0])
        expect(most.scores(in: pool), [0.01, 1, 0, 0])

        // Nobody meets them: the idle one, else those that miss TPOT only.
        pool.predictions = [prediction(90, 11), prediction(150, 5), prediction(150, 20), nil]
        pool.predictions[3] = prediction(500, 50)
        expect(scorer.scores(in: pool), [0, 0, 0, 0.01 + 0.99 * 0.5])
        pool.inFlight = [1, 1, 1, 1]
        expect(scorer.scores(in: pool), [0.01 + 0.99 * 0.5, 0, 0, 0])
    }

    @Test func latencyWithoutPredictions() throws {
        var pool = context(
            count: 2, loads: [load(waiting: 4, kvUsage: 0.5), load(waiting: 0, kvUsage: 0)])
        pool.match([4, 0], of: 4)
        let scorer = try plugin("latency-scorer", as: LatencyScorer.self)
        expect(scorer.scores(in: pool), [(0.5 + 0 + 1) / 3, (1 + 1 + 0) / 3.0])
    }
}

extension NoHitLRUScorer {
    fileprivate func remember(_ endpoint: Int, _ context: SchedulingContext) {
        _ = headers(after: result(endpoint), in: context)
    }
}
