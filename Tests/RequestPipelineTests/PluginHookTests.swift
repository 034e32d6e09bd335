import Core
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry
import Testing

@Suite struct PluginHookTests {
    private func router(_ plugin: Recorder, _ extra: String = "") throws -> Router {
        let pool = EndpointPool()
        pool.update([server("a", 1, role: .both), server("b", 2, role: .both)])
        var registry = PluginRegistry.standard
        registry.register("recorder") { _ in plugin }
        return Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins:
                    - type: recorder
                    - type: prefix-cache-scorer
                    - type: session-affinity-scorer
                    - type: always-disagg-multimodal-decider
                    \(extra)
                    """, file: "t.yaml", registry: registry),
            metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "t"))
    }

    private func send(
        _ body: String, to router: Router, path: String = "/v1/chat/completions",
        headers: [String: String] = [:]
    ) -> (RequestSession, Step) {
        let session = RequestSession(
            router: router, method: "POST", path: path[...], headers: Headers(values: headers))
        _ = session.begin(endOfBody: false)
        if let early = session.feed(body) { return (session, early) }
        return (session, session.receivedEnd())
    }

    @Test func observersSeeEachDecisionEndOnce() throws {
        let recorder = Recorder()
        let router = try router(recorder)
        let (session, step) = send(#"{"model":"m","messages":[]}"#, to: router)
        let first = try #require(step.decision).endpoint.server.name
        #expect(recorder.log == ["prepared"])
        let second = try #require(session.endpointFailed().decision).endpoint.server.name
        #expect(recorder.log == ["prepared", "ended \(first) nil", "prepared"])
        let changes = session.responseStarted(status: 200)
        #expect(changes.contains(.set(name: "x-recorder", value: "200 \(second)")))
        // The token of the session scorer names who answered.
        #expect(
            changes.contains { if case .set("x-session-token", _) = $0 { true } else { false } })
        session.respond(#"{"usage":{"prompt_tokens":3,"completion_tokens":4}}"#)
        session.completed(.finished)
        session.completed(.clientGone)
        #expect(
            recorder.log == [
                "prepared", "ended \(first) nil", "prepared", "started \(second)",
                "ended \(second) 4",
            ])
    }

    @Test func aDroppedSessionEndsToo() throws {
        let recorder = Recorder()
        do { _ = send(#"{"model":"m","messages":[]}"#, to: try router(recorder)) }
        #expect(recorder.log.last?.hasPrefix("ended") == true)
        #expect(recorder.log.count == 2)
    }

    @Test func pluginsAreGivenTextAndMedia() throws {
        let recorder = Recorder()
        let router = try router(recorder)
        let body = #"""
            {"model":"m","messages":[{"role":"user","content":[
            {"type":"text","text":"hi"},{"type":"image_url","image_url":{"url":"http://x/1.png"}},
            {"type":"image_url","image_url":{"url":"http://x/1.png"}},
            {"type":"video_url","video_url":{"url":"http://x/1.png"}},
            {"type":"input_audio","input_audio":{"data":"AAAA","format":"wav"}}]}]}
            """#
        _ = send(body, to: router)
        let request = try #require(recorder.request)
        #expect(request.media.map(\.kind) == [.image, .video, .audio])
        #expect(request.media[0].identifier == request.media[1].identifier)
        #expect(request.media[0].identifier != request.media[2].identifier)
        let text = try #require(request.promptText)
        let string = text.string
        #expect(string.hasPrefix(#"{"role":"user""#) && string.hasSuffix("}]}"))
        #expect(request.promptTokenCount == text.byteCount / 4)
    }

    @Test func equalPromptsGoToTheSameEndpoint() throws {
        let router = try router(Recorder())
        let prompt = String(repeating: "a long prompt ", count: 60)
        var names: Set<String> = []
        for turn in 0..<8 {
            let body = "{\"model\":\"m\",\"prompt\":\"\(prompt) \(turn)\"}"
            let (session, step) = send(body, to: router, path: "/v1/completions")
            names.insert(try #require(step.decision).endpoint.server.name)
            session.completed(.finished)
        }
        #expect(names.count == 1)
    }

    @Test func aBadObjectiveIsTheClientsError() throws {
        let recorder = Recorder()
        let (_, step) = send(
            #"{"model":"m","messages":[]}"#, to: try router(recorder),
            headers: ["x-llm-d-slo-ttft-ms": "soon"])
        #expect(step.error?.status == 400)
        #expect(recorder.log.isEmpty)
    }
}

/// Writes down what it is told.
private final class Recorder: PreRequest, ResponseObserver {
    let name = PluginName(type: "recorder")
    private let events = Mutex<[String]>([])
    private let seen = Mutex<RequestBox?>(nil)

    // Sendable: a test reads it after the call that wrote it.
    private struct RequestBox: @unchecked Sendable { let request: SchedulingRequest }

    var log: [String] { events.withLock(\.self) }
    var request: SchedulingRequest? { seen.withLock { $0?.request } }

    func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        events.withLock { $0.append("prepared") }
        let box = RequestBox(request: context.request)
        seen.withLock { $0 = box }
    }

    func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {
        events.withLock { $0.append("started \(head.server.server.name)") }
        headers.append(
            .set(name: "x-recorder", value: "\(head.status) \(head.server.server.name)"))
    }

    func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {
        let count = usage?.completionTokens.map(String.init) ?? "nil"
        events.withLock { $0.append("ended \(request.endpoint.server.name) \(count)") }
    }
}
