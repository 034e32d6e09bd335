import Core
import ModelServers
import RequestPipeline
import Telemetry
import Testing

@Suite struct CircuitTests {
    private let servers = ["a", "b"].enumerated().map {
        ModelServer(
            name: $0.element, address: SocketAddress(host: "10.0.0.\($0.offset)", port: 80))
    }

    private func serve(_ fixture: Fixture, _ end: (RequestSession) -> Void) throws -> String {
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1]}"#)
        let decision = try #require(step.decision)
        end(session)
        return decision.endpoint.server.name
    }

    @Test(arguments: [500, 502, 503, 504])
    func anEndpointThatAnswersWithErrorsIsAvoided(status: Int) throws {
        let fixture = try Fixture(servers, policy: .random)
        // The first to fail five times in a row is out; the other one serves.
        var failing: String?
        for _ in 0..<100 where fixture.pool.snapshot.members.allSatisfy(\.isHealthy) {
            _ = try serve(fixture) { session in
                session.responseStarted(status: status)
                session.completed(.finished)
            }
        }
        failing = fixture.pool.snapshot.members.first { !$0.isHealthy }?.endpoint.server.name
        #expect(failing != nil)
        for _ in 0..<20 {
            let name = try serve(fixture) { session in
                session.responseStarted(status: 200)
                session.completed(.finished)
            }
            #expect(name != failing)
        }
    }

    @Test(arguments: [200, 400, 404, 429, 501])
    func otherAnswersSpeakAgainstNobody(status: Int) throws {
        let fixture = try Fixture(servers, policy: .random)
        for _ in 0..<50 {
            _ = try serve(fixture) { session in
                session.responseStarted(status: status)
                session.completed(.finished)
            }
        }
        let areHealthy = fixture.pool.snapshot.members.map(\.isHealthy)
        #expect(areHealthy == [true, true])
    }

    @Test func noAnswerInTimeIsAFailureToo() throws {
        let fixture = try Fixture([servers[0]], policy: .random)
        for _ in 0..<5 {
            #expect(fixture.pool.snapshot.members[0].isHealthy)
            _ = try serve(fixture) { $0.completed(.failed(.gatewayTimeout("late"))) }
        }
        #expect(!fixture.pool.snapshot.members[0].isHealthy)
    }

    @Test func whereThereIsNoOtherAFailingOneIsAsked() throws {
        let fixture = try Fixture([servers[0]], policy: .random)
        for _ in 0..<20 {
            _ = try serve(fixture) { session in
                session.responseStarted(status: 500)
                session.completed(.finished)
            }
        }
        #expect(!fixture.pool.snapshot.members[0].isHealthy)
        #expect(fixture.inFlight == [0])
    }

    @Test func aMetricTellsOfOpenCircuitsAndGoesWithTheEndpoint() throws {
        let fixture = try Fixture([servers[0]], policy: .random)
        func isOpen(_ name: String) -> Double {
            fixture.metric(
                "llmd_endpoint_circuit_open", #"{name="test",model_server_endpoint="\#(name)"}"#)
        }
        let member = fixture.pool.snapshot.members[0]
        _ = try serve(fixture) { session in _ = session.endpointFailed() }
        fixture.pool.update(servers)
        #expect([isOpen("a"), isOpen("b")] == [1, 0])
        // The probe may try: that closes nothing yet.
        member.scraped(.unreadable, at: .now + .seconds(2))
        #expect(member.isHealthy)
        #expect(isOpen("a") == 1)
        member.requestAnswered(isFailure: false, at: .now)
        #expect(isOpen("a") == 0)
        member.requestFailedToConnect(at: .now)
        #expect(isOpen("a") == 1)
        fixture.pool.update([servers[1]])
        let page = String(decoding: fixture.registry.exposition(), as: UTF8.self)
        let series = page.split(separator: "\n").filter { $0.hasPrefix("llmd_endpoint_circuit") }
        #expect(series.count == 1)
        #expect(series.first?.hasSuffix(#"model_server_endpoint="b"} 0"#) == true)
    }

    @Test func aProbeThatTellsNothingMakesRoomForAnother() throws {
        let fixture = try Fixture([servers[0]], policy: .random)
        let member = fixture.pool.snapshot.members[0]
        _ = try serve(fixture) { session in _ = session.endpointFailed() }
        #expect(!member.isHealthy)
        member.scraped(.unreadable, at: .now + .seconds(2))
        #expect(member.isHealthy)
        let (probe, _) = fixture.step(#"{"model":"m","prompt":[1]}"#)
        #expect(!member.isHealthy)
        probe.completed(.clientGone)
        #expect(member.isHealthy)
    }
}
