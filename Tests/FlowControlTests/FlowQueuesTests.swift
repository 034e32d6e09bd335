import Core
import FlowControl
import Testing

@Suite struct FlowQueuesTests {
    private func queues(
        _ adjust: (inout FlowControlConfiguration) -> Void = { _ in }
    ) -> Queues {
        var configuration = FlowControlConfiguration()
        adjust(&configuration)
        return Queues(configuration)
    }

    @Test func nothingWaitsWhileThereIsRoom() {
        let queues = queues()
        for priority in [5, 0, -1] {
            let arrival = queues.enqueue(
                request(priority: priority), saturation(0.9), at: 0)
            #expect(arrival.isDispatched)
        }
        #expect(queues.count == 0)
        #expect(queues.enqueue(request(), full, at: 0).isQueued)
        // Whoever comes later must not go first, even if there is room now.
        #expect(queues.enqueue(request(), open, at: 0).isQueued)
        #expect(queues.enqueue(request(priority: -1), open, at: 0).isQueued)
        #expect(queues.enqueue(request(priority: 1), open, at: 0).isDispatched)
    }

    @Test func bandsAreStrict() {
        let queues = queues()
        var expected: [FlowRequestID] = []
        for priority in [-1, 0, 7] {
            let arrival = queues.enqueue(
                request(priority: priority), full, at: 0)
            expected.insert(arrival.id!, at: 0)
        }
        #expect(queues.dispatch(full, at: 1) == nil)
        for id in expected { #expect(queues.dispatch(open, at: 1) == id) }
        #expect(queues.dispatch(open, at: 1) == nil)
    }

    @Test func aClosedBandHoldsUpTheLowerOnes() {
        let queues = queues {
            $0.usageLimit = .explicitHoldback([1: 0.5, 0: 0.4])
        }
        #expect(queues.enqueue(request(priority: 0), full, at: 0).isQueued)
        let high = queues.enqueue(request(priority: 1), full, at: 0).id
        #expect(queues.dispatch(saturation(0.5), at: 0) == nil)
        #expect(queues.dispatch(saturation(0.45), at: 0) == high)
        #expect(queues.dispatch(saturation(0.45), at: 0) == nil)
        #expect(queues.dispatch(saturation(0.39), at: 0) != nil)
    }

    @Test func anEmptyPoolIsAWaitingRoom() throws {
        let queues = queues { $0.noEndpointRequestTTL = .seconds(300) }
        let first = queues.enqueue(request(), empty, at: 0)
        #expect(first.isQueued)
        let second = queues.enqueue(request(), full, at: 0)
        #expect(queues.dispatch(empty, at: 1) == nil)
        #expect(queues.expire(at: 59.9, isPoolEmpty: true) == nil)
        let gone = try #require(queues.expire(at: 60, isPoolEmpty: true))
        #expect(gone.id == second.id)
        #expect(gone.rejection.error.status == 503)
        #expect(queues.expire(at: 299, isPoolEmpty: false) == nil)
        #expect(queues.dispatch(open, at: 299) == first.id)
    }

    @Test func capacityIsByBandAndInAll() {
        let queues = queues {
            $0.defaultBand.maxRequests = 3
            $0.defaultNegativeBand.maxBytes = 250
            $0.maxRequests = 5
            $0.maxBytes = 10_000
        }
        for _ in 0..<3 {
            #expect(queues.enqueue(request(), full, at: 0).isQueued)
        }
        #expect(
            queues.enqueue(request(), full, at: 0)
                == .rejected(.capacity(noEndpoints: false)))
        #expect(
            queues.enqueue(request(), empty, at: 0)
                == .rejected(.capacity(noEndpoints: true)))
        for isQueued in [true, true, false] {
            let arrival = queues.enqueue(request(priority: -1), full, at: 0)
            #expect(arrival.isQueued == isQueued)
        }
        // Five wait.
        #expect(!queues.enqueue(request(priority: 1), full, at: 0).isQueued)
        _ = queues.dispatch(open, at: 0)
        let huge = request(priority: 1, bytes: 9_601)
        #expect(!queues.enqueue(huge, full, at: 0).isQueued)
        #expect(queues.enqueue(request(priority: 1), full, at: 0).isQueued)
    }

    @Test func rejectionsHaveTheirStatusAndReason() {
        let expected: [(FlowRejection, Int, String)] = [
            (.capacity(noEndpoints: false), 429, "rejected-saturated"),
            (.capacity(noEndpoints: true), 503, "rejected-no-endpoints"),
            (.expired(noEndpoints: false), 429, "rejected-ttl-expired"),
            (.expired(noEndpoints: true), 503, "rejected-no-endpoints"),
            (.shuttingDown, 503, "rejected-shutting-down"), (.evicted, 429, "evicted"),
            (.shed, 429, "rejected-saturated"),
        ]
        for (rejection, status, reason) in expected {
            #expect(rejection.error.status == status)
            #expect(
                rejection.error.headers == [.init("x-llm-d-request-dropped-reason", reason)])
        }
    }

    @Test func orders() {
        let requests = [
            request(received: 0, ttl: .seconds(30)),
            request(received: 0, ttl: .seconds(10), slo: .seconds(2)),
            request(received: 0, ttl: .seconds(20), slo: .seconds(1)),
        ]
        let expected: [OrderingPolicy: [Int]] = [
            .firstComeFirstServed: [0, 1, 2], .earliestDeadlineFirst: [1, 2, 0],
            .sloDeadline: [2, 1, 0],
        ]
        for policy in OrderingPolicy.allCases {
            let queues = queues { $0.defaultBand.ordering = policy }
            let ids = requests.map {
                queues.enqueue($0, full, at: 0).id
            }
            let order = expected[policy]?.map { ids[$0] }
            #expect(
                ids.map { _ in queues.dispatch(open, at: 1) } == order,
                "\(policy)")
        }
    }

    @Test func softReflectiveOpensNowAndThen() {
        let queues = queues {
            $0.usageLimit = .softReflective
            $0.bands = [1: .init(), 0: .init()]
        }
        for _ in 0..<20 {
            #expect(queues.enqueue(request(), full, at: 0).isQueued)
        }
        // The ceiling is 0.25, the period 0.75 / 0.25 = 3.
        let level = saturation(0.75)
        let outcomes = (0..<9).map { _ in queues.dispatch(level, at: 0) != nil }
        #expect(outcomes == [false, false, true, false, false, true, false, false, true])
        #expect(queues.dispatch(saturation(0.4), at: 0) != nil)
        for _ in 0..<50 { #expect(queues.dispatch(full, at: 0) == nil) }
    }

    @Test func holdbackSpreadsItsCeilings() {
        let rank = UsageLimitPolicy.holdback(min: 0.4, max: 1, byValue: false)
        let value = UsageLimitPolicy.holdback(min: 0.4, max: 1, byValue: true)
        let priorities = [10, 9, 0]
        func ceilings(_ policy: UsageLimitPolicy) -> [Int] {
            priorities.indices.map {
                Int(
                    (100
                        * policy.ceiling(
                            rank: $0, priority: priorities[$0], count: 3, highest: 10, lowest: 0,
                            saturation: 0.5)).rounded())
            }
        }
        #expect(ceilings(rank) == [100, 70, 40])
        #expect(ceilings(value) == [100, 94, 40])
    }

    @Test func whatIsSheddableMakesRoom() {
        let queues = queues { $0.enableEviction = true }
        var shed: [FlowRequestID] = []
        for priority in [-2, -1, -2, -2] {
            let arrival = queues.enqueue(
                request(priority: priority), open, at: 0)
            shed.append(arrival.id!)
        }
        let important = queues.enqueue(request(priority: 3), open, at: 0).id!
        func revoked(at seconds: Double, _ level: PoolSaturation = full) -> [FlowRequestID] {
            queues.revoke(level, at: seconds)
        }
        // Nobody waits; nor does one that could be shed itself count.
        #expect(revoked(at: 0).isEmpty)
        #expect(queues.enqueue(request(priority: -1), full, at: 0).isQueued)
        #expect(revoked(at: 0).isEmpty)
        for _ in 0..<5 {
            #expect(queues.enqueue(request(), full, at: 0).isQueued)
        }
        #expect(revoked(at: 1, open).isEmpty)
        // The newest of the lowest priority, two at a time.
        #expect(revoked(at: 1) == [shed[3], shed[2]])
        #expect(revoked(at: 1.6).isEmpty)
        queues.leave(shed[3], at: 1.6)
        #expect(revoked(at: 1.7).isEmpty)
        queues.leave(shed[2], at: 1.7)
        #expect(revoked(at: 1.8) == [shed[0], shed[1]])
        // No confirmation comes, and there is nobody left who may be stopped.
        #expect(revoked(at: 12).isEmpty)
        queues.leave(important, at: 12)
    }

    @Test func anEvictionThatIsNotConfirmedIsWaitedForOnlySoLong() {
        let queues = queues { $0.enableEviction = true }
        for _ in 0..<5 {
            _ = queues.enqueue(request(priority: -1), open, at: 0)
        }
        _ = queues.enqueue(request(), full, at: 0)
        var ids: [FlowRequestID] = []
        for (at, count) in [(0.0, 1), (9.9, 1), (10, 2), (10.4, 2)] {
            ids += queues.revoke(full, at: at)
            #expect(ids.count == count, "after \(at) s")
        }
        // Confirmed, but the grace is not over.
        queues.leave(ids[1], at: 10.4)
        ids += queues.revoke(full, at: 10.49)
        #expect(ids.count == 2)
        ids += queues.revoke(full, at: 10.5)
        #expect(ids.count == 3)
    }

    @Test func shutdownHandsEverythingBack() {
        let queues = queues()
        let ids = (0..<3).map {
            queues.enqueue(request(priority: $0), full, at: 0).id
        }
        var drained: [FlowRequestID?] = []
        while let id = queues.drain() { drained.append(id) }
        #expect(Set(drained) == Set(ids))
        #expect(
            queues.enqueue(request(), full, at: 0) == .rejected(.shuttingDown))
        // What need not wait still goes on.
        #expect(queues.enqueue(request(), open, at: 0).isDispatched)
    }

    @Test func aStaleIDDoesNothing() {
        let queues = queues()
        let first = queues.enqueue(request(), open, at: 0).id!
        queues.leave(first, at: 0)
        let second = queues.enqueue(request(), full, at: 0).id!
        #expect(first.slot == second.slot)
        #expect(!queues.leave(first, at: 0))
        #expect(queues.count == 1)
        #expect(queues.leave(second, at: 0))
        #expect(queues.count == 0)
    }

    @Test func idleFlowsAndBandsAreForgotten() {
        let queues = queues { $0.bands = [0: .init()] }
        let first = queues.enqueue(request("a", priority: 4), open, at: 0).id!
        queues.collectGarbage(at: 1000)
        // It is still served.
        #expect(queues.flowSizes.count == 1)
        queues.leave(first, at: 1000)
        queues.collectGarbage(at: 1299)
        #expect(queues.flowSizes.count == 1)
        queues.collectGarbage(at: 1310)
        #expect(queues.flowSizes.isEmpty)
        #expect(queues.priorities == [4, 0])
        queues.collectGarbage(at: 2000)
        #expect(queues.priorities == [0])
    }

    @Test func flowsAreBounded() {
        let queues = queues { $0.defaultBand.maxRequests = 10_000 }
        for number in 0..<5000 {
            _ = queues.enqueue(request("flow-\(number)"), full, at: 0)
        }
        let sizes = queues.flowSizes
        #expect(sizes.count == FlowQueues.maximumFlows + 1)
        #expect(sizes.first { $0.fairnessID == "other" }?.count == 5000 - FlowQueues.maximumFlows)
        #expect(sizes.reduce(0) { $0 + $1.count } == 5000)
    }

    /// A cycle over 100,000 waiting requests costs about what one over 100 does.
    @Test func manyWaitingRequestsDoNotSlowACycle() {
        func cost(_ count: Int) -> Duration {
            let queues = queues { $0.defaultBand.maxRequests = 200_000 }
            for number in 0..<count {
                let request = request("flow-\(number % 100)", bytes: 1)
                _ = queues.enqueue(request, full, at: Double(number) / 1e6)
            }
            let began = MonotonicTime.now
            for _ in 0..<50 {
                guard let id = queues.dispatch(open, at: 1) else { continue }
                _ = queues.expire(at: 1, isPoolEmpty: false)
                queues.leave(id, at: 1)
                _ = queues.enqueue(request("flow-1", bytes: 1), full, at: 1)
            }
            return MonotonicTime.now - began
        }
        let few = (0..<5).map { _ in cost(100) }.min()!
        let many = (0..<5).map { _ in cost(100_000) }.min()!
        #expect(many < few * 20 + .milliseconds(1), "\(many) for many, \(few) for few")
    }
}
