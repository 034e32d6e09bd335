import Configuration
import Core
import Logging
import ModelServers
import Net
import Synchronization
import Testing

/// A resolver of which the test says what it answers, and when.
private final class FakeResolver: HostResolver {
    private struct State {
        var answers: [String: Result<[String], NetError>] = [:]
        var asked: [String: Int] = [:]
    }

    private let state = Mutex(State())

    /// Without an answer a name is never answered.
    func answer(_ host: String, _ result: Result<[String], NetError>?) {
        state.withLock { $0.answers[host] = result }
    }

    func timesAsked(_ host: String) -> Int { state.withLock { $0.asked[host] ?? 0 } }

    func resolve(
        _ host: String, on loop: EventLoop,
        _ body: @escaping (Result<[String], NetError>) -> Void
    ) {
        let result = state.withLock { state in
            state.asked[host, default: 0] += 1
            return state.answers[host]
        }
        if let result { body(result) }
    }
}

@Suite struct DNSEndpointsTests {
    private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func name(_ argument: String) throws -> DNSName {
        try DNSName(parsing: argument, option: "--endpoint-dns")
    }

    /// Waits until `condition` holds, at most ten seconds.
    private func eventually(
        _ what: Comment, _ condition: () -> Bool, at location: SourceLocation = #_sourceLocation
    ) async throws {
        let deadline = MonotonicTime.now + .seconds(10)
        while !condition() {
            try #require(MonotonicTime.now < deadline, what, sourceLocation: location)
            try await Task.sleep(for: .milliseconds(2))
        }
    }

    @Test func everyAddressIsAnEndpoint() throws {
        var answers = DNSAnswers(
            [
                try name(
                    "engines.local:8000,role=decode,metrics=8002,events=5557,replay=5558,"
                        + "label=llm-d.ai/engine-type=sglang"),
                try name("more.local:8000,family=ipv4"),
            ], keepTime: .seconds(60))
        let now = MonotonicTime.now
        #expect(answers.servers(at: now).isEmpty)
        answers.set(["10.0.0.1", "fd00::1"], of: 0, at: now)
        answers.set(["10.0.0.1", "10.0.0.2", "fd00::2"], of: 1, at: now)
        let labels = ["llm-d.ai/role": "decode", "llm-d.ai/engine-type": "sglang"]
        #expect(
            answers.servers(at: now) == [
                ModelServer(
                    name: "10.0.0.1:8000", address: SocketAddress(host: "10.0.0.1", port: 8000),
                    metricsAddress: SocketAddress(host: "10.0.0.1", port: 8002), labels: labels,
                    eventsEndpoint: "tcp://10.0.0.1:5557", replayEndpoint: "tcp://10.0.0.1:5558"),
                ModelServer(
                    name: "[fd00::1]:8000", address: SocketAddress(host: "fd00::1", port: 8000),
                    metricsAddress: SocketAddress(host: "fd00::1", port: 8002), labels: labels,
                    eventsEndpoint: "tcp://[fd00::1]:5557",
                    replayEndpoint: "tcp://[fd00::1]:5558"),
                ModelServer(
                    name: "10.0.0.2:8000", address: SocketAddress(host: "10.0.0.2", port: 8000)),
            ])
    }

    @Test func anAnswerCountsForATime() throws {
        var answers = DNSAnswers(
            [try name("a:1"), try name("b:1")], keepTime: .seconds(60))
        let start = MonotonicTime.now
        answers.set(["10.0.0.1"], of: 0, at: start)
        answers.set(["10.0.0.2"], of: 1, at: start + .seconds(30))
        func names(_ seconds: Int) -> [String] {
            answers.servers(at: start + .seconds(seconds)).map(\.name)
        }
        #expect(names(60) == ["10.0.0.1:1", "10.0.0.2:1"])
        #expect(names(61) == ["10.0.0.2:1"])
        #expect(names(91) == [])
        answers.set([], of: 1, at: start + .seconds(40))
        #expect(names(41) == ["10.0.0.1:1"])
    }

    @Test func aPoolFollowsTheAnswers() async throws {
        let loop = try EventLoop.start(name: "dns")
        let resolver = FakeResolver()
        let pool = EndpointPool()
        var configuration = DNSEndpoints.Configuration(names: [try name("a:1"), try name("b:2")])
        configuration.interval = .milliseconds(5)
        configuration.keepTime = .seconds(3)
        resolver.answer("a", .success(["10.0.0.1", "10.0.0.2"]))
        resolver.answer("b", .failure(.cannotResolve("b")))
        DNSEndpoints(configuration, resolver: resolver, logger: quiet)
            .start(filling: pool, on: loop)
        func names() -> [String] { pool.snapshot.endpoints.map(\.server.name) }
        try await eventually("a is there") { names() == ["10.0.0.1:1", "10.0.0.2:1"] }

        // What stays the same leaves the pool alone.
        let generation = pool.snapshot.generation
        let member = pool.snapshot.members[1]
        let asked = resolver.timesAsked("a")
        try await eventually("a is asked on") { resolver.timesAsked("a") > asked + 2 }
        #expect(pool.snapshot.generation == generation)

        resolver.answer("a", .success(["10.0.0.2", "10.0.0.3"]))
        resolver.answer("b", .success(["10.0.1.1"]))
        try await eventually("both are there") {
            names() == ["10.0.0.2:1", "10.0.0.3:1", "10.0.1.1:2"]
        }
        #expect(pool.snapshot.members[0] === member)

        // One fails and one falls silent: each goes when its time is over, not before.
        resolver.answer("a", .failure(.cannotResolve("a")))
        resolver.answer("b", nil)
        let failures = resolver.timesAsked("a")
        try await eventually("a fails") { resolver.timesAsked("a") > failures + 2 }
        #expect(names().count == 3)
        try await eventually("they go") { names().isEmpty }
        #expect(resolver.timesAsked("b") > 0)

        resolver.answer("a", .success(["10.0.0.9"]))
        try await eventually("a is back") { names() == ["10.0.0.9:1"] }
        loop.shutdown()
    }

    @Test func theSystemKnowsLocalhost() async throws {
        let loop = try EventLoop.start(name: "dns")
        let pool = EndpointPool()
        let names = [try name("localhost:8000,family=ipv4"), try name("127.0.0.9:8001")]
        DNSEndpoints(DNSEndpoints.Configuration(names: names), logger: quiet)
            .start(filling: pool, on: loop)
        try await eventually("localhost is there") {
            pool.snapshot.endpoints.map(\.server.name) == ["127.0.0.1:8000", "127.0.0.9:8001"]
        }
        loop.shutdown()
    }

    @Test(arguments: [
        ("a", "'a' has a wrong address: address 'a' has no port"),
        (":80", "':80' needs a host and a port"),
        ("a:0", "'a:0' needs a host and a port"),
        ("a:1,x", "'a:1,x' is no list of key=value"),
        ("a:1,rol=x", "'a:1,rol=x' has an unknown key 'rol'; did you mean 'role'?"),
        ("a:1,role=x", "'a:1,role=x' has an unknown role; valid are "),
        ("a:1,events=x", "'a:1,events=x' needs a port as 'events'"),
        ("a:1,replay=0", "'a:1,replay=0' needs a port as 'replay'"),
        ("a:1,events=1,events=2", "'a:1,events=1,events=2' has 'events' twice"),
        ("a:1,family=inet", "'a:1,family=inet' needs ipv4 or ipv6 as 'family'"),
        ("a:1,label=x", "'a:1,label=x' needs label=name=value"),
    ])
    func refusesArguments(argument: String, expected: String) {
        let error = #expect(throws: ConfigError.self) { try name(argument) }
        #expect(error?.description.hasPrefix("--endpoint-dns: \(expected)") == true)
    }

    @Test func aSourceOfAFileSaysWhatIsWrongWithIt() throws {
        let loop = try EventLoop.start(name: "file")
        let source: any EndpointSource = FileEndpoints(path: "/nonexistent", logger: quiet)
        #expect(throws: ConfigError.self) { try source.start(filling: EndpointPool(), on: loop) }
        loop.shutdown()
    }
}
