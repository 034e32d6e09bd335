import Core
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry
import Testing

/// Services are asked before the decision.
@Suite struct ConsultTests {
    private static let configuration = """
        apiVersion: llm-d.ai/v1alpha1
        kind: EndpointPickerConfig
        plugins:
        - {type: remote-scorer, name: first, parameters: {url: "http://first:1"}}
        - {type: remote-scorer, name: second, parameters: {url: "http://second:1"}}
        """

    private func fixture() throws -> Fixture {
        try Fixture(
            [server("a", 1, role: .both), server("b", 2, role: .both)],
            configuration: Self.configuration)
    }

    private func scores(_ text: String) -> ServiceOutcome {
        .answered(status: 200, body: Array("{\"scores\":[\(text)]}".utf8))
    }

    private func isMore(_ step: Step) -> Bool {
        if case .more = step { true } else { false }
    }

    @Test func eachIsAskedOnceAndDecides() throws {
        let fixture = try fixture()
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1,2]}"#)
        #expect(step.service == "first")
        #expect(fixture.inFlight == [0, 0])
        #expect(session.consulted(scores("0.2,0.3")).service == "second")
        let decision = try #require(session.consulted(scores("0.9,0.1")).decision)
        #expect(decision.endpoint.server.name == "a")
        #expect(isMore(session.consulted(scores("0,1"))))
        // A second try goes by the same answers, without asking again.
        #expect(session.endpointFailed().decision?.endpoint.server.name == "b")
        session.completed(.finished)
        #expect(fixture.inFlight == [0, 0])
        #expect(fixture.metric("llmd_router_consult_failures_total") == 0)
    }

    @Test func aFailureCostsTheAnswerOnly() throws {
        let fixture = try fixture()
        let (session, step) = fixture.step(#"{"model":"m","prompt":[1,2]}"#)
        #expect(step.service == "first")
        #expect(session.consulted(.failed).service == "second")
        #expect(session.consulted(scores("0.1,0.9")).decision?.endpoint.server.name == "b")
        #expect(fixture.metric("llmd_router_consult_failures_total") == 1)
        // The next request does not wait for who is down.
        let (_, next) = fixture.step(#"{"model":"m","prompt":[1,2]}"#)
        #expect(next.service == "second")
    }

    /// However a request ends, a question of its own is ended too: else 256 of them would be the
    /// last ones.
    @Test func whoIsGoneLeavesNoQuestionBehind() throws {
        let fixture = try fixture()
        for number in 0..<600 {
            let (session, step) = fixture.step(#"{"model":"m","prompt":[1,2]}"#)
            #expect(step.service == "first", "\(number)")
            if number % 2 == 0 { session.completed(.clientGone) }
            if number % 3 == 0 {
                #expect(isMore(session.consulted(scores("1,1"))) == (number % 2 == 0))
            }
        }
        #expect(fixture.metric("llm_d_epp_request_error_total", "499") == 600)
    }

    @Test func nobodyIsAskedAboutNothing() throws {
        let fixture = try fixture()
        fixture.pool.update([])
        let (_, step) = fixture.step(#"{"model":"m","prompt":[1,2]}"#)
        #expect(step.error?.status == 503)
    }

    @Test func timesReachPlugins() throws {
        let watcher = Watcher()
        let pool = EndpointPool()
        pool.update([server("a", 1, role: .both)])
        var registry = PluginRegistry.standard
        registry.register("watcher") { _ in watcher }
        let router = Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins: [{type: random-picker}, {type: watcher}]
                    """, file: "t.yaml", registry: registry),
            metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "t"))
        func routed(_ body: String) -> RequestSession {
            let session = RequestSession(
                router: router, method: "POST", path: "/v1/completions", headers: Headers())
            _ = session.begin(endOfBody: false)
            _ = session.feed(body)
            #expect(session.receivedEnd().decision != nil)
            return session
        }
        let session = routed(#"{"model":"m","stream":true,"prompt":[1,2]}"#)
        session.responseStarted(status: 201)
        session.respond("data: x")
        session.respond("data: y")
        session.completed(.finished)
        let seen = try #require(watcher.seen)
        #expect(seen.isStreaming && seen.status == 201)
        let (first, last) = (try #require(seen.firstByteAt), try #require(seen.completedAt))
        #expect(first <= last)
        routed(#"{"model":"m","prompt":[1,2]}"#).completed(.clientGone)
        #expect(watcher.seen?.completedAt == nil && watcher.seen?.isStreaming == false)
    }
}

/// Keeps what it is told at the end of a request.
private final class Watcher: ResponseObserver {
    let name = PluginName(type: "watcher")
    private let last = Mutex<RoutedRequest?>(nil)
    var seen: RoutedRequest? { last.withLock(\.self) }

    func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {
        last.withLock { $0 = request }
    }
}

extension Step {
    /// Who is to be asked.
    fileprivate var service: String? {
        if case .consult(let question) = self { question.servers.first?.host } else { nil }
    }
}
