import Core
import FlowControl
import Testing

@Suite struct PropertyTests {
    private static let seeds = (0..<60).map { UInt64($0) }

    /// Any order of events leads to what a plain list leads to.
    @Test(arguments: seeds) func actsAsAPlainListDoes(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        var configuration = FlowControlConfiguration()
        var band = FlowControlConfiguration.Band()
        band.maxRequests = Int.random(in: 5...60, using: &random)
        band.maxBytes = Int.random(in: 1000...10_000, using: &random)
        band.fairness = Bool.random(using: &random) ? .roundRobin : .globalStrict
        band.ordering = OrderingPolicy.allCases.randomElement(using: &random)!
        configuration.defaultBand = band
        configuration.defaultNegativeBand = band
        configuration.maxRequests = Int.random(in: 20...100, using: &random)
        configuration.maxBytes = 12_000
        configuration.enableEviction = true
        let queues = Queues(configuration)
        var model = SlowModel(configuration)
        var now = 0.0

        for step in 0..<3000 {
            now += Double.random(in: 0...0.3, using: &random)
            switch Int.random(in: 0..<10, using: &random) {
            case 0..<4:
                let request = request(
                    "flow-\(Int.random(in: 0..<6, using: &random))",
                    priority: Int.random(in: -2...2, using: &random),
                    bytes: Int.random(in: 0...500, using: &random), received: now - 1,
                    ttl: .milliseconds(Int.random(in: 1...60_000, using: &random)),
                    slo: Bool.random(using: &random)
                        ? .milliseconds(Int.random(in: 1...5000, using: &random)) : nil)
                let isOpen = Int.random(in: 0..<4, using: &random) == 0
                let expected = model.arrival(request, isOpen: isOpen)
                let arrival = queues.enqueue(
                    request, isOpen ? open : full, at: now)
                try #require(arrival.isDispatched == expected.goesOn, "seed \(seed) step \(step)")
                try #require((arrival.id != nil) == expected.isTaken, "seed \(seed) step \(step)")
                guard let id = arrival.id else { continue }
                if expected.goesOn {
                    model.inFlight.append((id, request.priority))
                } else {
                    model.queued(id, request, now: time(now))
                }
            case 4..<7:
                let expected = model.next()
                let id = queues.dispatch(open, at: now)
                try #require(id == expected?.id, "seed \(seed) step \(step)")
                guard let id, let expected else { continue }
                model.remove(id, wasServed: true)
                model.inFlight.append((id, expected.request.priority))
            case 7:
                // The client of one that waits goes away, or one is served.
                if Bool.random(using: &random),
                    let entry = model.waiting.randomElement(using: &random)
                {
                    try #require(queues.leave(entry.id, at: now))
                    model.remove(entry.id, wasServed: false)
                } else if !model.inFlight.isEmpty {
                    let index = Int.random(in: 0..<model.inFlight.count, using: &random)
                    let id = model.inFlight.remove(at: index).id
                    try #require(!queues.leave(id, at: now))
                }
            case 8:
                var gone: Set<FlowRequestID> = []
                while let (id, _) = queues.expire(at: now, isPoolEmpty: false) {
                    gone.insert(id)
                }
                let due = model.waiting.filter { $0.deadline <= time(now) }.map(\.id)
                try #require(gone == Set(due), "seed \(seed) step \(step)")
                for id in due { model.remove(id, wasServed: false) }
            default:
                let revoked = queues.revoke(full, at: now)
                try #require(revoked.count <= 2)
                for id in revoked {
                    let victim = try #require(model.inFlight.first { $0.id == id })
                    let lowest = model.inFlight.map(\.priority).min()
                    try #require(victim.priority < 0, "seed \(seed) step \(step)")
                    try #require(victim.priority == lowest, "seed \(seed) step \(step)")
                    // It stops at once.
                    model.inFlight.removeAll { $0.id == id }
                    queues.leave(id, at: now)
                }
            }
            try #require(queues.count == model.waiting.count, "seed \(seed) step \(step)")
            try #require(
                queues.byteCount == model.waiting.reduce(0) { $0 + $1.request.byteSize },
                "seed \(seed) step \(step)")
            queues.collectGarbage(at: now)
        }
    }

    /// Whatever comes and goes, no flow of a band that always waits gets a turn more than another.
    @Test(arguments: seeds) func roundRobinIsFairWithinOneRequest(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        var configuration = FlowControlConfiguration()
        configuration.defaultBand.fairness = .roundRobin
        let queues = Queues(configuration)
        let always = ["a", "b", "c"]
        var served: [String: Int] = [:]
        for step in 0..<2000 {
            for id in always {
                while queues.count(of: id) < 2 {
                    _ = queues.enqueue(request(id), full, at: Double(step))
                }
            }
            // Others come in bursts.
            if Int.random(in: 0..<10, using: &random) == 0 {
                for _ in 0..<Int.random(in: 1...20, using: &random) {
                    _ = queues.enqueue(request("burst"), full, at: Double(step))
                }
            }
            let id = try #require(queues.dispatch(open, at: Double(step)))
            served[queues.fairnessID(of: id), default: 0] += 1
            queues.leave(id, at: Double(step))
            let counts = always.map { served[$0] ?? 0 }
            try #require(counts.max()! - counts.min()! <= 1, "seed \(seed) step \(step): \(counts)")
        }
    }

    /// Flows that always wait get the same service, whatever their requests cost.
    @Test(arguments: seeds.prefix(10)) func leastAttainedServiceConverges(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        var configuration = FlowControlConfiguration()
        var policy = LeastAttainedService()
        policy.weightHeadWait = 0
        configuration.defaultBand.fairness = .leastAttained(policy)
        let queues = Queues(configuration)
        // What a request costs shows only in part when it goes.
        let costs = ["small": (1000, 0), "middle": (100, 500), "large": (500, 4000)]
        var service: [String: Double] = [:]
        var running: [(FlowRequestID, String, Double)] = []
        for step in 0..<20_000 {
            let now = Double(step) * 0.01
            for (id, tokens) in costs {
                while queues.count(of: id) < 2 {
                    _ = queues.enqueue(request(id, tokens: tokens.0), full, at: now)
                }
            }
            let id = try #require(queues.dispatch(open, at: now))
            let flow = queues.fairnessID(of: id)
            let tokens = try #require(costs[flow])
            let cost = LeastAttainedService.service(
                inputTokens: tokens.0,
                outputTokens: Int.random(in: 0...2 * tokens.1, using: &random))
            running.append((id, flow, cost))
            if running.count >= 4 {
                let (id, flow, cost) = running.removeFirst()
                service[flow, default: 0] += cost
                queues.leave(id, service: cost, at: now)
            }
        }
        let shares = service.values.map { $0 / service.values.reduce(0, +) }
        #expect(shares.count == 3)
        #expect(shares.allSatisfy { abs($0 - 1 / 3) < 0.02 }, "seed \(seed): \(service)")
    }

    /// A flow that was away for some half-lives is not held to what it got long ago, nor is it
    /// let in before everyone for longer than that.
    @Test func serviceIsForgotten() throws {
        var configuration = FlowControlConfiguration()
        configuration.defaultBand.fairness = .leastAttained(LeastAttainedService())
        for (pause, expected) in [(0.0, "new"), (600.0, "old")] {
            let queues = Queues(configuration)
            let first = request("old", tokens: 100_000)
            let old = try #require(queues.enqueue(first, open, at: 0).id)
            queues.leave(old, at: 1)
            let second = request("new", tokens: 1000)
            let new = try #require(queues.enqueue(second, open, at: pause).id)
            queues.leave(new, at: pause + 1)
            for id in ["old", "new"] {
                _ = queues.enqueue(request(id), full, at: pause + 2)
            }
            let next = try #require(queues.dispatch(open, at: pause + 2))
            #expect(queues.fairnessID(of: next) == expected)
        }
    }

    /// With all the weight on it, the age of the first request decides.
    @Test func headWaitCounts() throws {
        var policy = LeastAttainedService()
        policy.weightService = 0
        policy.weightHeadWait = 1
        var configuration = FlowControlConfiguration()
        configuration.defaultBand.fairness = .leastAttained(policy)
        let queues = Queues(configuration)
        for (second, id) in ["c", "a", "b"].enumerated() {
            _ = queues.enqueue(request(id), full, at: Double(second))
        }
        let order = (0..<3).compactMap { _ in
            queues.dispatch(open, at: 5).map { queues.fairnessID(of: $0) }
        }
        #expect(order == ["c", "a", "b"])
    }
}
