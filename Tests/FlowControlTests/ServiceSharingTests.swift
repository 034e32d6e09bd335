import Core
import FlowControl
import Testing

/// The least attained service of several routers.
@Suite struct ServiceSharingTests {
    private func queues() -> Queues {
        var configuration = FlowControlConfiguration()
        var policy = LeastAttainedService()
        policy.weightHeadWait = 0
        policy.halfLifeSeconds = 10
        configuration.defaultBand.fairness = .leastAttained(policy)
        return Queues(configuration)
    }

    /// Lets a request of so many tokens through.
    private func serve(_ queues: Queues, _ id: String, _ tokens: Int, at now: Double) throws {
        let arrival = queues.enqueue(request(id, tokens: tokens), open, at: now)
        #expect(arrival.isDispatched)
        queues.leave(try #require(arrival.id), at: now)
    }

    private func next(_ queues: Queues, at now: Double) throws -> String {
        let id = try #require(queues.dispatch(open, at: now))
        return queues.fairnessID(of: id)
    }

    @Test func whatOthersGaveCounts() throws {
        let queues = queues()
        try serve(queues, "a", 100, at: 0)
        try serve(queues, "b", 200, at: 0)
        queues.setOthers(["a": 300, "new": 250], at: 0)
        for id in ["a", "b", "new"] { _ = queues.enqueue(request(id), full, at: 0) }
        // 200, 250, which was known before the flow was, and 400.
        #expect(try next(queues, at: 0) == "b")
        #expect(try next(queues, at: 0) == "new")
        #expect(try next(queues, at: 0) == "a")
    }

    @Test func whatOthersGaveIsForgottenAsOurs() throws {
        let queues = queues()
        try serve(queues, "a", 1000, at: 0)
        // A later word takes the place of the one before.
        queues.setOthers(["b": 9000], at: 0)
        queues.setOthers(["b": 1100], at: 0)
        // Half of both is left; c got more since.
        try serve(queues, "c", 520, at: 10)
        for id in ["b", "c", "a"] { _ = queues.enqueue(request(id), full, at: 10) }
        #expect(try next(queues, at: 10) == "a")
        #expect(try next(queues, at: 10) == "c")
        #expect(try next(queues, at: 10) == "b")
        // After so many half-lives that units are reckoned anew, nothing is left but what is new.
        try serve(queues, "a", 1, at: 1000)
        queues.setOthers(["b": 2], at: 1000)
        for id in ["b", "a"] { _ = queues.enqueue(request(id), full, at: 1000) }
        #expect(try next(queues, at: 1000) == "a")
        #expect(try next(queues, at: 1000) == "b")
    }

    @Test func ownServiceIsToldWithoutThatOfOthers() throws {
        let queues = queues()
        #expect(queues.attained(all: true, at: 0).isEmpty)
        try serve(queues, "a", 1000, at: 0)
        try serve(queues, "a", 1000, at: 0)
        queues.setOthers(["a": 7], at: 0)
        let told = queues.attained(all: false, at: 10)
        #expect(told.map(\.flow) == [FlowID(fairnessID: "a", priority: 0)])
        #expect(abs(told[0].tokens - 1000) < 1e-6 && told[0].halfLifeSeconds == 10)
        // Once; all of it if all is asked for.
        #expect(queues.attained(all: false, at: 10).isEmpty)
        try serve(queues, "b", 5, at: 10)
        #expect(queues.attained(all: true, at: 10).count == 2)
        #expect(queues.attained(all: false, at: 10).isEmpty)
    }

    @Test func otherPoliciesHaveNoService() throws {
        let queues = Queues(FlowControlConfiguration())
        try serve(queues, "a", 1000, at: 0)
        #expect(queues.attained(all: true, at: 0).isEmpty)
        queues.setOthers(["a": 7], at: 0)
    }
}
