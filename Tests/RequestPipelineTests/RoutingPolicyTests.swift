import Configuration
import Core
import KVIndex
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Testing

@Suite struct RoutingPolicyTests {
    @Test func routersThatShareTheirIndexNameEachOther() throws {
        let sections = Mutex<[[String]]>([])
        var plugins = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(
            in: &plugins,
            makeIndex: { (configuration) throws(KVIndexError) in
                try KVIndex(configuration: configuration)
            },
            shareReplicas: { (value) throws(ConfigError) in
                try value.section { (section) throws(ConfigError) in
                    var texts = [try section.required("listen").string()]
                    texts.append("\(try section.required("shareLoad").boolean())")
                    for peer in try section.required("peers").list() {
                        texts.append(try peer.string())
                    }
                    sections.withLock { [texts] in $0.append(texts) }
                }
            })
        let text = RoutingPolicy.precise.configuration(
            listen: "127.0.0.1:1", peers: ["127.0.0.1:1", "127.0.0.1:2"])
        _ = try EndpointPickerConfig(parsing: text, file: "precise", registry: plugins)
        let alone = RoutingPolicy.precise.configuration(
            listen: "127.0.0.1:1", peers: [], sharesLoad: false)
        _ = try EndpointPickerConfig(parsing: alone, file: "precise", registry: plugins)
        #expect(
            sections.withLock(\.self) == [
                ["127.0.0.1:1", "true", "127.0.0.1:1", "127.0.0.1:2"], ["127.0.0.1:1", "false"],
            ])
        for policy in RoutingPolicy.allCases where policy != .precise {
            #expect(policy.configuration(listen: "x", peers: ["x"]) == policy.configuration)
        }
    }

    @Test func aPrefillerThatOthersKeepBusyIsAvoided() throws {
        func prefills(_ age: Duration) throws -> Set<String> {
            let fixture = try Fixture(policy: .precise)
            for (member, waiting) in zip(fixture.pool.snapshot.members, [5, 0, 0, 0]) {
                var load = ServerLoad()
                load.waitingCount = waiting
                member.scraped(.load(load), at: .now + (.zero - age))
            }
            return Set(
                try (0..<50).map { number in
                    let prompt = (0..<40).map { String($0 + 100 * number) }
                    let (session, step) = fixture.step(
                        #"{"model":"m","prompt":[\#(prompt.joined(separator: ","))]}"#)
                    defer { session.completed(.finished) }
                    return try #require(step.decision?.prefill).server.name
                })
        }
        #expect(try prefills(.seconds(-60)) == ["p1"])
        #expect(try prefills(.seconds(3)) == ["p0", "p1"])
    }

    @Test func sessionsStayWhereTheyAre() throws {
        let fixture = try Fixture(policy: .session)
        let sessions = (0..<20).map { "s\($0)" }
        let first = try sessions.map { try place(of: $0, prompt: 1, fixture) }
        #expect(Set(first.map { $0[0] }) == ["d0", "d1"])
        #expect(Set(first.map { $0[1] }) == ["p0", "p1"])
        // Neither the prompt nor the order matters.
        for (session, place) in zip(sessions, first).shuffled() {
            #expect(try self.place(of: session, prompt: 9, fixture) == place)
        }
    }

    /// The names of the endpoints that a session's request goes to.
    private func place(
        of session: String, prompt: Int, _ fixture: Fixture
    ) throws -> [String] {
        let running = fixture.session(headers: ["x-session-id": session])
        _ = running.begin(endOfBody: false)
        let body = #"{"model":"m","prompt":[\#(prompt),2,3]}"#
        let step = running.feed(body) ?? running.receivedEnd()
        let decision = try #require(step.decision)
        running.completed(.finished)
        return [decision.endpoint.server.name, try #require(decision.prefill).server.name]
    }
}
