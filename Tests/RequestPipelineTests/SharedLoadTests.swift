import Core
import FlowControl
import ModelServers
import RequestPipeline
import Scheduling
import Synchronization
import Testing

private final class Estimate: OutputEstimate {
    let own = Mutex<[UInt32: Int]>([:])
    let others = Mutex<[UInt32: Int]>([:])
    var outputTokensInFlight: [UInt32: Int] { own.withLock(\.self) }
    func setOthersOutputTokens(_ tokens: [UInt32: Int]) { others.withLock { $0 = tokens } }
}

@Suite struct SharedLoadTests {
    @Test func tellsOfOwnRequestsAndShowsOthers() throws {
        let fixture = try Fixture()
        let estimate = Estimate()
        let shared = SharedLoad(
            pool: fixture.pool, flow: FlowController(pool: fixture.pool), output: estimate)
        let members = fixture.pool.snapshot.members
        members[2].requestStarted()
        members[2].prefillStarted(tokenCount: 64)
        estimate.own.withLock { $0 = [members[2].endpoint.id: 9] }
        let own = InFlightLoad(requests: 1, prefillTokens: 64, outputTokens: 9)
        // Named in the order of the pool; what others have is not told on.
        for others in [InFlightLoad.none, InFlightLoad(requests: 5)] {
            shared.show(["d0": others])
            #expect(shared.endpointsInFlight().map(\.name) == ["p0", "p1", "d0", "d1"])
            #expect(shared.endpointsInFlight().map(\.load) == [.none, .none, own, .none])
        }
        shared.show([
            "p1": InFlightLoad(requests: 2, prefillTokens: 700, outputTokens: 3),
            "later": InFlightLoad(requests: 4, outputTokens: 6),
        ])
        #expect(members.map(\.knownInFlightCount) == [0, 2, 6, 0])
        #expect(members.map(\.knownPrefillTokens) == [0, 700, 64, 0])
        #expect(estimate.others.withLock(\.self) == [members[1].endpoint.id: 3])
        // An endpoint that comes later, and one that moved.
        fixture.pool.update([server("later", 9, role: .both), server("p1", 8, role: .prefill)])
        _ = shared.endpointsInFlight()
        let new = fixture.pool.snapshot.members
        #expect(new.map(\.knownInFlightCount) == [4, 2])
        #expect(
            estimate.others.withLock(\.self)
                == [new[0].endpoint.id: 6, new[1].endpoint.id: 3])
        shared.show(["p1": .none, "later": .none])
        #expect(new.map(\.knownInFlightCount) == [0, 0])
        #expect(estimate.others.withLock(\.self).isEmpty)
    }

    @Test func decisionsAvoidWhereOthersAreBusy() throws {
        let fixture = try Fixture(
            [server("a", 1, role: .both), server("b", 2, role: .both)], policy: .load)
        let shared = SharedLoad(pool: fixture.pool, flow: FlowController(pool: fixture.pool))
        _ = shared.endpointsInFlight()
        for (busy, expected) in [("a", "b"), ("b", "a")] {
            shared.show([expected: .none, busy: InFlightLoad(requests: 20)])
            for _ in 0..<5 {
                let (session, step) = fixture.step(#"{"model":"m","prompt":"hello"}"#)
                #expect(step.decision?.endpoint.server.name == expected)
                session.completed(.clientGone)
            }
        }
    }
}
