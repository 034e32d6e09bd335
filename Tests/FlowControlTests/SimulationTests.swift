import Core
import FlowControl
import Foundation
import Testing

/// Tenants of several priorities before a pool that takes less than they ask for, over ten
/// minutes of simulated time. Every request ends in exactly one way, and the promises of flow
/// control hold all the while.
@Suite struct SimulationTests {
    /// 20 seeds, or as many as `FLOW_SEEDS` asks for.
    static let seeds: Range<UInt64> = {
        let count = ProcessInfo.processInfo.environment["FLOW_SEEDS"].flatMap(UInt64.init)
        print("simulation seeds 0..<\(count ?? 20)")
        return 0..<(count ?? 20)
    }()

    private enum Outcome: Hashable {
        case served
        case expired
        case refused
        case clientGone
        case evicted
        case shutDown
    }

    private struct Job {
        var number: Int
        var priority: Int
        var arrivedAt: Double
        var expiresAt: Double
    }

    private struct Pool {
        let slots: Int
        var running: [FlowRequestID: (job: Job, endsAt: Double)] = [:]
        var isUp = true

        var saturation: PoolSaturation {
            var pool = PoolSaturation()
            guard isUp else { return pool }
            var load = EndpointLoad(takesPrefill: false, takesDecode: true)
            load.inFlightCount = running.count
            var detector = ConcurrencyDetector()
            detector.maxConcurrency = slots
            pool.add(load, by: detector, at: time(0))
            return pool
        }
    }

    @Test(arguments: seeds) func everyRequestEndsOnceAndPromisesHold(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let place = "seed \(seed)"
        var configuration = FlowControlConfiguration()
        configuration.defaultBand.maxRequests = 40
        configuration.defaultNegativeBand.maxRequests = 30
        configuration.maxRequests = 70
        configuration.defaultRequestTTL = .seconds(10)
        configuration.enableEviction = seed % 2 == 0
        configuration.defaultBand.fairness =
            [.globalStrict, .roundRobin, .leastAttained(LeastAttainedService())][Int(seed % 3)]
        let queues = Queues(configuration)
        var pool = Pool(slots: 8)
        var waiting: [FlowRequestID: Job] = [:]
        var outcomes: [Int: Outcome] = [:]
        var revoked: Set<FlowRequestID> = []
        var count = 0
        var now = 0.0

        func end(_ job: Job, _ outcome: Outcome) throws {
            let before = outcomes.updateValue(outcome, forKey: job.number)
            try #require(before == nil, "\(place): \(job) ended twice")
        }
        func took(_ id: FlowRequestID) throws -> Job {
            let job = waiting.removeValue(forKey: id)
            return try #require(job, "\(place): handed out one that does not wait")
        }
        func started(_ id: FlowRequestID, _ job: Job) throws {
            try #require(pool.isUp, "\(place)")
            try #require(pool.running.count < pool.slots, "\(place)")
            let higher = waiting.values.map(\.priority).max() ?? Int.min
            try #require(job.priority >= higher, "\(place) at \(now)")
            try #require(now < job.expiresAt, "\(place) at \(now)")
            pool.running[id] = (job, now + Double.random(in: 0.1...2, using: &random))
        }
        func turn() throws {
            while let (id, _) = queues.expire(at: now, isPoolEmpty: !pool.isUp) {
                let job = try took(id)
                try #require(now >= job.expiresAt, "\(place)")
                try end(job, .expired)
            }
            while let id = queues.dispatch(pool.saturation, at: now) {
                let job = try took(id)
                try started(id, job)
            }
            try #require(
                waiting.values.allSatisfy { $0.expiresAt > now }, "\(place) at \(now)")
            // Nobody waits for nothing.
            try #require(
                waiting.isEmpty || !pool.isUp || pool.running.count >= pool.slots, "\(place)")
            let victims = queues.revoke(pool.saturation, at: now)
            for id in victims {
                let job = try #require(pool.running[id]?.job, "\(place)")
                try #require(job.priority < 0, "\(place)")
                let isNew = revoked.insert(id).inserted
                try #require(isNew, "\(place)")
            }
        }

        while now < 600 {
            now += 1.0 / 128
            // By turns about half and about twice what the pool takes.
            let rate = Int(now / 30) % 2 == 0 ? 0.03 : 0.12
            while Double.random(in: 0...1, using: &random) < rate {
                count += 1
                let priority = [-2, -1, 0, 0, 1, 5].randomElement(using: &random)!
                let job = Job(
                    number: count, priority: priority, arrivedAt: now, expiresAt: now + 10)
                let arrival = queues.enqueue(
                    request(
                        "t\(Int.random(in: 0..<4, using: &random))", priority: priority,
                        tokens: Int.random(in: 1...5000, using: &random), received: now),
                    pool.saturation, at: now)
                switch arrival {
                case .dispatched(let id): try started(id, job)
                case .queued(let id): waiting[id] = job
                case .rejected: try end(job, .refused)
                }
                let negative = waiting.values.count { $0.priority == -1 }
                try #require(negative <= 30 && waiting.count <= 70, "\(place)")
            }
            if Int.random(in: 0..<200, using: &random) == 0,
                let (id, job) = waiting.randomElement(using: &random)
            {
                try #require(queues.leave(id, at: now), "\(place)")
                waiting[id] = nil
                try end(job, .clientGone)
            }
            for (id, (job, endsAt)) in pool.running {
                // What is told to stop does so a little later.
                let stops = revoked.contains(id) && Int.random(in: 0..<20, using: &random) == 0
                guard stops || endsAt <= now else { continue }
                pool.running[id] = nil
                queues.leave(id, service: 100, at: now)
                try end(job, stops ? .evicted : .served)
                revoked.remove(id)
            }
            if Int.random(in: 0..<5000, using: &random) == 0 { pool.isUp.toggle() }
            try turn()
            queues.collectGarbage(at: now)
            try #require(queues.count == waiting.count, "\(place)")
        }
        while let id = queues.drain() {
            try end(try took(id), .shutDown)
        }
        for (id, (job, _)) in pool.running {
            queues.leave(id, at: now)
            try end(job, .served)
        }
        try #require(waiting.isEmpty && queues.count == 0 && queues.byteCount == 0, "\(place)")
        try #require(outcomes.count == count, "\(place)")
        let kinds = Set(outcomes.values)
        #expect(kinds.isSuperset(of: [.served, .expired, .refused, .clientGone]), "\(place)")
        #expect(kinds.contains(.evicted) == configuration.enableEviction, "\(place)")
    }
}
