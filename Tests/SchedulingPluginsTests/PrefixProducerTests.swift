import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct PrefixProducerTests {
    /// The LRU against an array that is searched from its end.
    @Test func keysAreDroppedByTheirLastUse() {
        let seed = UInt64.random(in: 0 ... .max)
        print("PrefixProducerTests seed \(seed)")
        var random = RandomSource(seed: seed)
        for _ in 0..<40 {
            let capacity = Int.random(in: 1...40, using: &random)
            var lru = PrefixLRU(capacity: capacity)
            var model: [UInt64] = []
            var limit = capacity
            for _ in 0..<200 {
                // Chains of few roots, so that they share their starts; keys that collide.
                let root = UInt64.random(in: 0..<4, using: &random)
                let length = Int.random(in: 1...12, using: &random)
                let chain = (0..<length).map { root << 32 | UInt64($0 % 3) << 60 | UInt64($0) }
                lru.use(chain)
                for key in chain.prefix(limit).reversed() {
                    model.removeAll { $0 == key }
                    model.append(key)
                }
                model.removeFirst(max(0, model.count - limit))
                if Int.random(in: 0..<20, using: &random) == 0 {
                    limit = Int.random(in: 1...40, using: &random)
                    lru.resize(to: limit)
                }
                model.removeFirst(max(0, model.count - limit))
                #expect(lru.count == model.count, "seed \(seed)")
                for other in 0..<UInt64(4) {
                    let probe = (0..<12).map { other << 32 | UInt64($0 % 3) << 60 | UInt64($0) }
                    let held = probe.prefix { model.contains($0) }.count
                    #expect(lru.matchedCount(probe) == held, "seed \(seed)")
                    #expect(probe.count { lru.contains($0) } == held, "seed \(seed)")
                }
            }
        }
    }

    private func text(_ text: String) -> PromptText {
        let bytes = Array(text.utf8)
        return PromptText(body: bytes, ranges: [bytes.indices])
    }

    private func matched(
        _ producer: ApproxPrefixCacheProducer, _ context: inout SchedulingContext
    ) -> [Int] {
        for index in context.prefixMatches.indices { context.prefixMatches[index].totalBlocks = 0 }
        producer.produce(into: &context)
        return context.prefixMatch(by: "subject")?.matchedBlocks ?? []
    }

    @Test func promptsAreFoundWhereTheyWent() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        var pool = context(count: 3)
        pool.request.tokens = Array(0..<200)
        #expect(matched(producer, &pool) == [0, 0, 0])
        _ = producer.headers(after: result(0, prefill: 2), in: pool)
        // 200 tokens are three blocks of 64 and a part of one.
        #expect(matched(producer, &pool) == [4, 0, 4])
        pool.request.tokens += [7]
        #expect(matched(producer, &pool) == [3, 0, 3])
        pool.request.cacheSalt = "s"
        #expect(matched(producer, &pool) == [0, 0, 0])
        pool.request.cacheSalt = nil
        pool.request.targetModel = "other"
        #expect(matched(producer, &pool) == [0, 0, 0])
    }

    @Test func textCountsFourBytesAsAToken() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        var pool = context(count: 2)
        let start = String(repeating: "ab cd ", count: 100)
        pool.request.promptText = text(start)
        #expect(matched(producer, &pool) == [0, 0])
        // 600 bytes: 150 tokens, 3 blocks.
        #expect(pool.prefixMatch(by: "subject")?.totalBlocks == 3)
        _ = producer.headers(after: result(1), in: pool)
        pool.request.promptText = text(start + "and on")
        #expect(matched(producer, &pool) == [0, 2])
        // The same bytes as token ids.
        let bytes = Array(start.utf8)
        pool.request.tokens = (0..<150).map { token in
            (0..<4).reduce(0) { $0 | UInt32(bytes[4 * token + $1]) << UInt32(8 * $1) }
        }
        #expect(matched(producer, &pool) == [0, 3])
    }

    @Test func blocksAndCapacityAreTheEngines() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        var loads = (0..<2).map { _ in ServerLoad() }
        loads[0].blockSize = 128
        loads[0].blockCount = 3
        var pool = context(count: 2, loads: loads)
        pool.request.tokens = Array(0..<640)
        #expect(matched(producer, &pool) == [0, 0])
        #expect(pool.prefixMatch(by: "subject")?.blockSize == 128)
        _ = producer.headers(after: result(0), in: pool)
        _ = producer.headers(after: result(1), in: pool)
        #expect(matched(producer, &pool) == [3, 5])

        let fixed = try plugin(
            "approx-prefix-cache-producer",
            "{autoTune: false, blockSizeTokens: 80, lruCapacityPerServer: 2, "
                + "maxPrefixTokensToMatch: 320}",
            as: ApproxPrefixCacheProducer.self)
        #expect(matched(fixed, &pool) == [0, 0])
        #expect(pool.prefixMatch(by: "subject")?.totalBlocks == 4)
        _ = fixed.headers(after: result(0), in: pool)
        #expect(matched(fixed, &pool) == [2, 0])
    }

    @Test func endpointsThatLeaveAreForgotten() throws {
        let producer = try plugin(
            "approx-prefix-cache-producer", as: ApproxPrefixCacheProducer.self)
        var pool = context(count: 2)
        pool.poolGeneration = 1
        pool.request.tokens = Array(0..<64)
        _ = matched(producer, &pool)
        _ = producer.headers(after: result(0), in: pool)
        _ = producer.headers(after: result(1), in: pool)
        #expect(matched(producer, &pool) == [1, 1])
        let gone = pool.endpoints[0]
        pool.endpoints = [pool.endpoints[1]]
        pool.poolGeneration = 2
        #expect(matched(producer, &pool) == [1])
        pool.endpoints.append(gone)
        pool.loads = pool.endpoints.map { _ in ServerLoad() }
        pool.poolGeneration = 3
        #expect(matched(producer, &pool) == [1, 0])
    }

    @Test func burstsFollowTheFirst() throws {
        let producer = try plugin(
            "burst-prefix-cache-producer", "{maxPerReplica: 2}",
            as: BurstPrefixCacheProducer.self)
        var pool = context(count: 2)
        pool.now = MonotonicTime(nanoseconds: 1)
        pool.request.tokens = Array(0..<100)
        func matched() -> [Int] {
            producer.produce(into: &pool)
            return pool.prefixMatch(by: "subject")?.matchedBlocks ?? []
        }
        #expect(matched() == [0, 0])
        _ = producer.headers(after: result(1), in: pool)
        #expect(matched() == [0, 2])
        pool.request.tokens = Array(0..<101)
        #expect(matched() == [0, 0])
        pool.request.tokens = Array(0..<100)
        pool.now = pool.now + .milliseconds(100)
        #expect(matched() == [0, 2])
        _ = producer.headers(after: result(1), in: pool)
        // Two are enough for one endpoint.
        #expect(matched() == [0, 0])
        _ = producer.headers(after: result(0), in: pool)
        #expect(matched() == [2, 0])
        pool.now = pool.now + .milliseconds(101)
        #expect(matched() == [0, 0])
    }

    @Test func peersThatHoldMoreAreNamed() throws {
        let producer = try plugin(
            "p2p-source-producer", "{minCachedTokenDelta: 32}", as: P2PSourceProducer.self)
        var pool = context(count: 4)
        let removed = HeaderMutation.remove(name: "x-kv-cache-source-host-port")
        func header(_ result: SchedulingResult) -> HeaderMutation? {
            producer.headers(after: result, in: pool).first
        }
        #expect(header(result(0)) == removed)
        pool.match([0, 8, 5, 2], of: 10)
        let named = HeaderMutation.set(
            name: "x-kv-cache-source-host-port", value: "10.0.0.1:8000")
        #expect(header(result(0)) == named)
        #expect(header(result(1)) == removed)
        // Who computes the prompt is what counts.
        #expect(header(result(1, prefill: 3)) == named)
        pool.match([7, 8, 5, 2], of: 10)
        #expect(header(result(0)) == removed)

        // Within one block of the best, by 1 / (1 + queue).
        pool.match([0, 8, 7, 6], of: 10)
        pool.loads[1].waitingCount = 2
        var counts = [0, 0, 0, 0]
        for seed in 0..<4000 {
            pool.seed = UInt64(seed) &* 0x9e37_79b9
            if case .set(_, let value)? = header(result(0)) {
                counts[pool.endpoints.firstIndex { $0.address == value } ?? 0] += 1
            }
        }
        #expect(counts[3] == 0 && counts[0] == 0)
        #expect((880...1120).contains(counts[1]), "\(counts)")
    }

    @Test func outputTokensAreEstimated() throws {
        var pool = context(count: 2, prefillTokensInFlight: [10, 20], promptTokenCount: 100)
        let producer = try plugin(
            "inflight-load-producer",
            "{addEstimatedOutputTokens: true, maxEstimatedOutputTokens: 120}",
            as: InflightLoadProducer.self)
        _ = producer.headers(after: result(1), in: pool)
        producer.produce(into: &pool)
        #expect(pool.outputTokensInFlight == [0, 120])
        #expect(pool.tokensInFlight(at: 1) == 140)
        // What other routers' requests are likely to be given counts, and is not told as ours.
        producer.setOthersOutputTokens([pool.endpoints[0].id: 30, pool.endpoints[1].id: 5])
        pool.outputTokensInFlight = []
        producer.produce(into: &pool)
        #expect(pool.outputTokensInFlight == [30, 125])
        #expect(producer.outputTokensInFlight == [pool.endpoints[1].id: 120])
        producer.setOthersOutputTokens([:])
        producer.requestEnded(
            RoutedRequest(pool.request, result(1), endpoints: pool.endpoints), usage: nil)
        pool.outputTokensInFlight = []
        producer.produce(into: &pool)
        #expect(pool.outputTokensInFlight == [0, 0])
    }

    @Test func imagesCountAsTokens() throws {
        var pool = context(count: 1, promptTokenCount: 10)
        pool.request.media = [
            MediaItem(kind: .image, identifier: 1), MediaItem(kind: .image, identifier: 2),
            MediaItem(kind: .audio, identifier: 3),
        ]
        let estimate = try plugin("token-producer", as: TokenProducer.self)
        #expect(estimate.promptNeeds == .media)
        estimate.produce(into: &pool)
        #expect(pool.request.promptTokenCount == 10 + 2 * 225)
        let vllm = try plugin(
            "token-producer", "{modelName: m, vllm: {url: http://x}}", as: TokenProducer.self)
        #expect(vllm.promptNeeds.contains(.tokens))
    }

    @Test func sessionsAndAgents() throws {
        var pool = context(count: 1)
        let agent = try plugin(
            "agent-identity", "{additionalSessionHeaders: [X-Mine]}", as: AgentIdentity.self)
        let header = try plugin("session-id-producer", as: SessionIDProducer.self)
        let cookie = try plugin(
            "session-id-producer", "{cookieName: sid}", as: SessionIDProducer.self)
        #expect(pool.request.fairnessID == "default-flow")
        pool.request.headers = Headers(values: ["session_id": "a", "x-session-id": "b"])
        agent.process(&pool.request)
        header.process(&pool.request)
        #expect(pool.request.fairnessID == "a")
        #expect(pool.request.sessionID == "b")
        pool.request.headers = Headers(values: [
            "x-mine": "c", "session_id": "a", "cookie": "x=1; sid=d=e; y=2",
            "x-gateway-inference-fairness-id": "tenant",
        ])
        agent.process(&pool.request)
        cookie.process(&pool.request)
        #expect(pool.request.agentIdentity == "c")
        #expect(pool.request.fairnessID == "tenant")
        #expect(pool.request.sessionID == "d=e")
        #expect(throws: (any Error).self) {
            try plugin(
                "session-id-producer", "{cookieName: a, headerName: b}",
                as: SessionIDProducer.self)
        }
    }
}
