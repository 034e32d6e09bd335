import Core
import FlowControl
import Foundation
import Testing

/// Twice what a pool can compute, for a minute of virtual time, in three bands: what
/// `llmd bench overload` measures, by a model of engines that compute one prompt after another.
@Suite struct OverloadTests {
    private static let promptSeconds = 0.12
    private static let promptTokens = 4000
    /// How long an answer takes after its first token.
    private static let answerSeconds = 0.35
    /// From the engine to the router or back.
    private static let hopSeconds = 0.0005
    private static let seconds = 60.0
    private static let priorities = [10, 0, -1]

    private enum Event {
        case arrival(band: Int)
        case firstToken(FlowRequestID, engine: Int)
        case end(FlowRequestID, engine: Int)
    }

    private struct Engine {
        var inFlightCount = 0
        var inFlightTokens = 0
        var isBusyUntil = 0.0
    }

    private struct Result {
        /// By band, in seconds, ascending.
        var timesToFirstToken: [[Double]] = [[], [], []]
        var arrivals = [0, 0, 0]
        var refusals: [[FlowRejection: Int]] = [[:], [:], [:]]
        var mostWaiting = 0
        var mostBytes = 0

        /// The 99th percentile of the high band.
        var high: Double {
            let times = timesToFirstToken[0]
            return times[min(times.count - 1, Int((0.99 * Double(times.count)).rounded(.up)) - 1)]
        }
    }

    /// What docs/flow-control.md has for so many engines.
    private static func configuration(
        engines: Int, reserve: Int = 1
    ) -> FlowControlConfiguration {
        var configuration = FlowControlConfiguration()
        var detector = ConcurrencyDetector()
        detector.mode = .hybrid
        detector.maxConcurrency = 256
        detector.maxTokenConcurrency = 512
        configuration.detector = detector
        let rest = Double(engines - reserve) / Double(engines)
        configuration.usageLimit = .explicitHoldback([10: 1, 0: rest, -1: rest])
        configuration.defaultRequestTTL = .seconds(30)
        configuration.bands[-1] = FlowControlConfiguration.Band()
        configuration.bands[-1]?.maxRequests = 100
        return configuration
    }

    /// Bands ask for these parts of what the engines compute.
    private static func run(
        _ configuration: FlowControlConfiguration, engines count: Int, shares: [Double],
        seed: UInt64
    ) throws -> Result {
        var random = SeededGenerator(state: seed)
        var events: [(time: Double, event: Event)] = []
        for (band, share) in shares.enumerated() where share > 0 {
            var time = 0.0
            while true {
                let unit = Double.random(in: 1e-12..<1, using: &random)
                time -= log(unit) * promptSeconds / (share * Double(count))
                guard time < seconds else { break }
                events.append((time, .arrival(band: band)))
            }
        }
        // The next one last.
        events.sort { $0.time > $1.time }
        func schedule(_ event: Event, at time: Double) {
            let index = events.lastIndex { $0.time > time }.map { $0 + 1 } ?? 0
            events.insert((time, event), at: index)
        }

        let queues = Queues(configuration)
        var engines = Array(repeating: Engine(), count: count)
        var waiting: [FlowRequestID: (band: Int, since: Double)] = [:]
        var result = Result()

        func saturation(_ now: Double) -> PoolSaturation {
            var pool = PoolSaturation()
            for engine in engines {
                var load = EndpointLoad(takesPrefill: false, takesDecode: true)
                load.inFlightCount = engine.inFlightCount
                load.inFlightTokens = engine.inFlightTokens
                pool.add(load, by: configuration.detector, at: time(now))
            }
            return pool
        }
        func place(_ id: FlowRequestID, _ band: Int, since: Double, at now: Double) {
            let least = engines.map(\.inFlightTokens).min()
            let engine = engines.firstIndex { $0.inFlightTokens == least } ?? 0
            engines[engine].inFlightCount += 1
            engines[engine].inFlightTokens += promptTokens
            let done = max(now + hopSeconds, engines[engine].isBusyUntil) + promptSeconds
            engines[engine].isBusyUntil = done
            result.timesToFirstToken[band].append(done + hopSeconds - since)
            schedule(.firstToken(id, engine: engine), at: done + hopSeconds)
        }
        while let (now, event) = events.popLast() {
            switch event {
            case .arrival(let band):
                result.arrivals[band] += 1
                let arrival = queues.enqueue(
                    request(priority: priorities[band], bytes: 28_000, tokens: promptTokens),
                    saturation(now), at: now)
                switch arrival {
                case .dispatched(let id): place(id, band, since: now, at: now)
                case .queued(let id): waiting[id] = (band, now)
                case .rejected(let reason): result.refusals[band][reason, default: 0] += 1
                }
            case .firstToken(let id, let engine):
                engines[engine].inFlightTokens -= promptTokens
                schedule(.end(id, engine: engine), at: now + answerSeconds)
            case .end(let id, let engine):
                engines[engine].inFlightCount -= 1
                queues.leave(id, at: now)
            }
            while let (id, reason) = queues.expire(at: now) {
                let request = waiting.removeValue(forKey: id)
                result.refusals[try #require(request).band][reason, default: 0] += 1
            }
            while let id = queues.dispatch(saturation(now), at: now) {
                let request = waiting.removeValue(forKey: id)
                let (band, since) = try #require(request)
                place(id, band, since: since, at: now)
            }
            result.mostWaiting = max(result.mostWaiting, queues.count)
            result.mostBytes = max(result.mostBytes, queues.byteCount)
        }
        #expect(waiting.isEmpty)
        for band in 0..<3 { result.timesToFirstToken[band].sort() }
        return result
    }

    /// The high band's slowdown and what became of all.
    private static func overload(
        engines: Int, high: Double, reserve: Int = 1, seed: UInt64
    ) throws -> (slowdown: Double, result: Result) {
        let configuration = configuration(engines: engines, reserve: reserve)
        let unloaded = try run(configuration, engines: engines, shares: [high, 0, 0], seed: seed)
        let loaded = try run(
            configuration, engines: engines, shares: [high, 0.6, 1.4 - high], seed: ~seed)
        return (loaded.high / unloaded.high, loaded)
    }

    private static let seeds = 0..<20 as Range<UInt64>

    @Test(arguments: [0.05, 0.1]) func theHighBandIsSlowedDownByAHalfAtMost(high: Double) throws {
        var slowdowns: [Double] = []
        for seed in Self.seeds {
            let (slowdown, result) = try Self.overload(engines: 8, high: high, seed: seed)
            slowdowns.append(slowdown)
            #expect(slowdown <= 1.5, "seed \(seed)")
            // Every request ends in one way.
            for band in 0..<3 {
                let refused = result.refusals[band].values.reduce(0, +)
                #expect(
                    result.timesToFirstToken[band].count + refused == result.arrivals[band],
                    "seed \(seed), band \(band)")
            }
            // Nobody but the sheddable is refused, and they with a 429 that says why.
            #expect(result.refusals[0].isEmpty && result.refusals[1].isEmpty, "seed \(seed)")
            let saturated = FlowRejection.capacity(noEndpoints: false)
            let reasons = Set(result.refusals[2].keys)
            #expect(reasons.isSubset(of: [saturated, .expired(noEndpoints: false)]))
            #expect(result.refusals[2][saturated, default: 0] > 1000, "seed \(seed)")
            for reason in reasons {
                #expect(reason.error.status == 429)
                let header = try #require(reason.error.headers.first)
                #expect(["rejected-saturated", "rejected-ttl-expired"].contains(header.value))
            }
            // The sheddable queue, and a few of the others.
            #expect(result.mostWaiting < 200, "seed \(seed)")
            #expect(result.mostBytes < 200 * 28_000, "seed \(seed)")
        }
        Self.tell(slowdowns, "one of 8 engines reserved, high \(high)")
    }

    /// It is the engine that is left to it that does it.
    @Test(arguments: [0.05, 0.1]) func aSmallPoolNeedsAReserve(high: Double) throws {
        let with = try Self.seeds.map {
            try Self.overload(engines: 4, high: high, seed: $0).slowdown
        }
        Self.tell(with, "one of 4 engines reserved, high \(high)")
        let without = try Self.seeds.map {
            try Self.overload(engines: 4, high: high, reserve: 0, seed: $0).slowdown
        }
        Self.tell(without, "none of 4 engines reserved, high \(high)")
        #expect(without.sorted()[without.count / 2] > 1.5)
        #expect(with.sorted()[with.count / 2] <= 1.5)
    }

    private static func tell(_ slowdowns: [Double], _ what: String) {
        let (least, most) = (slowdowns.min() ?? 0, slowdowns.max() ?? 0)
        print(
            "overload, \(what): slowdown", (least * 100).rounded() / 100, "to",
            (most * 100).rounded() / 100)
    }
}
