import Core
import Foundation
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct FurtherFilterTests {
    @Test func encodeTakesItsRoles() throws {
        let roles = [
            "encode", "encode-prefill", "prefill", "prefill-decode", "encode-prefill-decode",
            "decode", "both",
        ]
        let pool = context(count: 8, labels: roles.map { ["llm-d.ai/role": $0] } + [[:]])
        #expect(try plugin("encode-filter", as: EncodeFilter.self).kept(in: pool) == [0, 1, 4])
    }

    @Test func stickyUnlessTooBusy() throws {
        var pool = context(count: 3, prefillTokensInFlight: [0, 0, 0])
        func kept(_ parameters: String = "{}") throws -> [Int] {
            try plugin(
                "prefix-cache-affinity-filter", parameters, as: PrefixCacheAffinityFilter.self
            ).kept(in: pool)
        }
        #expect(try kept() == [0, 1, 2])
        pool.match([7, 8, 2], of: 10)
        #expect(try kept() == [1])
        #expect(try kept("{affinityThreshold: 0.7}") == [0, 1])
        #expect(try kept("{affinityThreshold: 0.9}") == [0, 1, 2])
        #expect(try kept("{explorationProbability: 1}") == [0, 1, 2])
        // 15928 tokens are a second: at 18 it is still worth it, above it is not.
        pool.prefillTokensInFlight = [0, 18 * 15928, 0]
        #expect(try kept() == [1])
        pool.prefillTokensInFlight[1] += 16
        #expect(try kept() == [0, 1, 2])
        #expect(try kept("{maxTTFTPenaltyMs: 0}") == [1])
        #expect(try kept("{peakPrefillThroughput: 31856}") == [1])
        pool.predictions = [10, 20, 10].map {
            LatencyPrediction(ttftMilliseconds: $0, tpotMilliseconds: 1)
        }
        #expect(try kept("{ttftSource: latencyPredictor}") == [1])
        #expect(try kept("{ttftSource: latencyPredictor, maxTTFTPenaltyMs: 9}") == [0, 1, 2])
    }

    @Test func sessionByToken() throws {
        var pool = context(count: 3)
        let filter = try plugin("session-affinity-filter", as: SessionAffinityFilter.self)
        #expect(filter.kept(in: pool) == [0, 1, 2])
        let routed = RoutedRequest(pool.request, result(0), endpoints: pool.endpoints)
        var headers: [HeaderMutation] = []
        // The data plane went on to a fallback: the token names who answered.
        filter.responseStarted(
            ResponseHead(status: 200, server: pool.endpoints[1]), to: routed, headers: &headers)
        let token = Data("e1".utf8).base64EncodedString()
        #expect(headers == [.set(name: "x-session-token", value: token)])
        pool.header("x-session-token", token)
        #expect(filter.kept(in: pool) == [1])
        let scorer = try plugin("session-affinity-scorer", as: SessionAffinityScorer.self)
        expect(scorer.scores(in: pool), [0, 1, 0])
        for broken in ["%%%", Data("gone".utf8).base64EncodedString()] {
            pool.header("x-session-token", broken)
            #expect(filter.kept(in: pool) == [0, 1, 2])
            expect(scorer.scores(in: pool), [0, 0, 0])
        }
    }

    @Test func sessionOfThePrefillStage() throws {
        let pool = context(count: 3)
        let filter = try plugin(
            "session-affinity-filter",
            "{profileName: prefill, encodedEndpointHeaderConfig: {header: X-P}}",
            as: SessionAffinityFilter.self)
        var headers: [HeaderMutation] = []
        let head = ResponseHead(status: 200, server: pool.endpoints[0])
        filter.responseStarted(
            head,
            to: RoutedRequest(pool.request, result(0, prefill: 2), endpoints: pool.endpoints),
            headers: &headers)
        let token = Data("e2".utf8).base64EncodedString()
        #expect(headers == [.set(name: "x-p", value: token)])
        filter.responseStarted(
            head, to: RoutedRequest(pool.request, result(0), endpoints: pool.endpoints),
            headers: &headers)
        #expect(headers.count == 1)
    }

    @Test func sessionByIdentifier() throws {
        var pool = context(count: 3)
        pool.now = MonotonicTime(nanoseconds: 1)
        let filter = try plugin(
            "session-affinity-filter",
            "{strategy: session_id, sessionIdConfig: {sources: [{header: x-session-id}, "
                + "{attribute: agent-identity}], evictionTtlSeconds: 300}}",
            as: SessionAffinityFilter.self)
        pool.header("x-session-id", "s")
        #expect(filter.kept(in: pool) == [0, 1, 2])
        _ = filter.headers(after: result(2), in: pool)
        #expect(filter.kept(in: pool) == [2])
        pool.header("x-session-id", nil)
        #expect(filter.kept(in: pool) == [0, 1, 2])
        pool.request.agentIdentity = "s"
        #expect(filter.kept(in: pool) == [2])
        // A use keeps the binding; without one it is forgotten.
        pool.now = pool.now + .seconds(299)
        #expect(filter.kept(in: pool) == [2])
        pool.now = pool.now + .seconds(299)
        #expect(filter.kept(in: pool) == [2])
        pool.now = pool.now + .seconds(301)
        #expect(filter.kept(in: pool) == [0, 1, 2])
    }

    @Test func headroomTiers() throws {
        var pool = context(count: 3)
        pool.predictions = [50, 150, 100].map {
            LatencyPrediction(ttftMilliseconds: $0, tpotMilliseconds: 1)
        }
        func kept(_ epsilon: Int) throws -> [Int] {
            try plugin(
                "slo-headroom-tier-filter", "{epsilonExploreNeg: \(epsilon)}",
                as: SLOHeadroomTierFilter.self
            ).kept(in: pool)
        }
        #expect(try kept(0) == [0, 1, 2])
        pool.request.ttftObjective = .milliseconds(100)
        #expect(try kept(0) == [0, 2])
        #expect(try kept(1) == [1])
        pool.request.ttftObjective = .milliseconds(10)
        #expect(try kept(0) == [0, 1, 2])
    }

    @Test func utilization() throws {
        let pool = context(
            count: 3,
            loads: [
                load(waiting: 1, running: 9), load(waiting: 2, kvUsage: 0.5), load(kvUsage: 0.9),
            ], inFlight: [5, 6, 7])
        func kept(_ conditions: String, fallback: Bool = false) throws -> [Int] {
            try plugin(
                "utilization-filter", "{conditions: [\(conditions)], fallbackOnEmpty: \(fallback)}",
                as: UtilizationFilter.self
            ).kept(in: pool)
        }
        #expect(try kept("{metric: waiting-queue, maxValue: 1}") == [0, 2])
        #expect(try kept("{metric: running-requests, maxValue: 8}") == [1, 2])
        #expect(try kept("{metric: active-requests, maxValue: 6}") == [0, 1])
        let both =
            "{metric: kv-cache-utilization, maxValue: 0.5}, {metric: waiting-queue, maxValue: 1}"
        #expect(try kept(both) == [0])
        #expect(try kept("{metric: active-requests, maxValue: 1}") == [])
        #expect(try kept("{metric: active-requests, maxValue: 1}", fallback: true) == [0, 1, 2])
        #expect(throws: (any Error).self) { try kept("{metric: queue, maxValue: 1}") }
    }

    @Test(arguments: [
        ("threshold, threshold: {operator: LessThan, value: 20}", [0, 3]),
        ("threshold, threshold: {operator: GreaterThanOrEqual, value: 20}", [1, 2, 3]),
        ("range, range: {min: 20, max: 25}", [2, 3]),
        ("topK, topK: {k: 1}", [1, 3]),
        ("topK, topK: {k: 2, higherIsBetter: false}", [0, 2, 3]),
        ("percentile, percentile: {percentile: 50}", [1, 2, 3]),
        ("percentile, percentile: {percentile: 25, higherIsBetter: false}", [0, 3]),
    ])
    func attribute(algorithm: String, expected: [Int]) throws {
        var loads = (0..<4).map { _ in ServerLoad() }
        for (i, value) in [10.0, 30, 20].enumerated() { loads[i].attributes["depth"] = value }
        let pool = context(count: 4, loads: loads)
        func kept(_ missing: String, _ algorithm: String, fallback: Bool = false) throws -> [Int] {
            try plugin(
                "endpoint-attribute-filter",
                "{attribute: depth, onMissing: \(missing), fallbackOnEmpty: \(fallback), "
                    + "algorithm: {type: \(algorithm)}}",
                as: EndpointAttributeFilter.self
            ).kept(in: pool)
        }
        #expect(try kept("Pass", algorithm) == expected)
        #expect(try kept("Fail", algorithm) == expected.filter { $0 != 3 })
        let impossible = "threshold, threshold: {operator: GreaterThan, value: 99}"
        #expect(try kept("Fail", impossible) == [])
        #expect(try kept("Fail", impossible, fallback: true) == [0, 1, 2, 3])
    }

    @Test func endpointsByTestHeader() throws {
        var pool = context(count: 3)
        pool.endpoints[2] = Endpoint(
            ModelServer(name: "v6", address: SocketAddress(host: "fd00::7", port: 8000)), id: 2)
        let filter = try plugin(
            "header-based-testing-filter", as: HeaderBasedTestingFilter.self)
        #expect(filter.kept(in: pool) == [0, 1, 2])
        for (value, expected) in [
            ("10.0.0.1", [1]), ("10.0.0.1:8000, 10.0.0.0", [0, 1]), ("10.0.0.1:9", []),
            ("[fd00::7]:8000", [2]), ("fd00::7", [2]), ("[fd00::7]", [2]),
        ] {
            pool.header("test-epp-endpoint-selection", value)
            #expect(filter.kept(in: pool) == expected, "\(value)")
        }
    }
}
