import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct AdmissionTests {
    private func status(_ admitter: any Admitter, _ context: SchedulingContext) -> Int? {
        do {
            try admitter.admit(Array(context.endpoints.indices), in: context)
            return nil
        } catch {
            #expect(error.apiError.headers.first?.value == "rejected-saturated")
            return error.apiError.status
        }
    }

    @Test func onlyWhatCannotMeetItsObjectivesIsShed() throws {
        let admitter = try plugin("latency-slo-admitter", as: LatencySLOAdmitter.self)
        var pool = context(
            count: 2, loads: [load(running: 3, kvUsage: 0.5), load(running: 2, kvUsage: 0.3)],
            inFlight: [1, 1])
        pool.predictions = [200, 300].map {
            LatencyPrediction(ttftMilliseconds: $0, tpotMilliseconds: 1)
        }
        pool.request.priority = -1
        #expect(status(admitter, pool) == nil)
        pool.request.ttftObjective = .milliseconds(100)
        #expect(status(admitter, pool) == 429)
        for change: (inout SchedulingContext) -> Void in [
            { $0.request.priority = 0 },
            { $0.request.ttftObjective = .milliseconds(200) },
            { $0.loads[1].kvUsage = 0.01 },
            { $0.predictions[1] = nil },
            {
                $0.inFlight[0] = 0
                $0.loads[0].runningCount = 0
            },
        ] {
            var other = pool
            change(&other)
            #expect(status(admitter, other) == nil)
        }
    }

    @Test func theFullerTheMoreIsShed() throws {
        let admitter = try plugin("probabilistic-admitter", as: ProbabilisticAdmitter.self)
        // p = 300 * saturation^5.
        for (kvUsage, expected) in [(0.12, 0.023), (0.16, 0.096), (0.24, 0.729), (0.28, 1.0)] {
            var loads = [load(kvUsage: kvUsage), load(kvUsage: kvUsage)]
            for i in loads.indices { loads[i].scrapedAt = MonotonicTime(nanoseconds: 1) }
            var pool = context(count: 2, loads: loads)
            pool.request.priority = -1
            var shed = 0
            for seed in 0..<4000 {
                pool.seed = UInt64(seed) &* 0x9e37_79b9_7f4a_7c15
                if status(admitter, pool) == 429 { shed += 1 }
            }
            #expect(abs(Double(shed) / 4000 - expected) < 0.03, "\(kvUsage): \(shed)")
            pool.request.priority = 0
            #expect(status(admitter, pool) == nil)
        }
    }

    @Test func utilization() throws {
        let detector = try plugin("utilization-detector", as: UtilizationDetectorPlugin.self)
        var loads = [
            load(waiting: 5), load(waiting: 1, kvUsage: 0.8), load(waiting: 6),
            load(kvUsage: 0.9), load(),
        ]
        for i in 0..<4 { loads[i].scrapedAt = MonotonicTime(nanoseconds: 1) }
        var pool = context(count: 5, loads: loads)
        pool.now = MonotonicTime(nanoseconds: 1) + .seconds(5)
        #expect(detector.kept(in: pool) == [0, 1])
        let roomy = try plugin(
            "utilization-detector", "{headroom: 0.2}", as: UtilizationDetectorPlugin.self)
        #expect(roomy.kept(in: pool) == [0, 1, 2, 3])
        // Too old to be believed: all rather than none.
        pool.now = pool.now + .milliseconds(201)
        #expect(detector.kept(in: pool) == [0, 1, 2, 3, 4])
        let patient = try plugin(
            "utilization-detector", "{metricsHold: 6s}", as: UtilizationDetectorPlugin.self)
        #expect(patient.kept(in: pool) == [0, 1])
    }

    @Test(arguments: [
        ("requests", [0]), ("tokens", [1]), ("hybrid", []),
    ])
    func concurrency(mode: String, kept: [Int]) throws {
        let pool = context(count: 2, inFlight: [0, 10], prefillTokensInFlight: [2000, 100])
        let detector = try plugin(
            "concurrency-detector",
            "{concurrencyMode: \(mode), maxConcurrency: 10, maxTokenConcurrency: 1000}",
            as: ConcurrencyDetectorPlugin.self)
        #expect(detector.kept(in: pool) == kept)
    }
}
