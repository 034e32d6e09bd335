import Configuration
import Core
import FlowControl
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Synchronization
import Telemetry
import Testing

private let body = #"{"model":"m","prompt":[1,2,3]}"#

@Suite struct QueueingTests {
    /// A pool of one endpoint that takes one request, seen by the sessions.
    private struct Stage {
        let fixture: Fixture
        init(
            isEnabled: Bool = true, concurrency: Int = 1,
            _ adjust: (inout FlowControlConfiguration) -> Void = { _ in }
        ) throws {
            var configuration = FlowControlConfiguration()
            var detector = ConcurrencyDetector()
            detector.maxConcurrency = concurrency
            configuration.detector = detector
            adjust(&configuration)
            fixture = try Fixture(
                [server("d0", 1, role: .decode)], policy: .load,
                flow: (configuration, isEnabled))
            fixture.pool.setRules(
                TrafficRules(
                    objectives: (-10...10).map { InferenceObjective(name: "\($0)", priority: $0) }))
        }

        var flow: FlowController { fixture.router.flow }

        func start(_ headers: [String: String] = [:]) -> (RequestSession, Step) {
            let session = fixture.session(headers: headers)
            _ = session.begin(endOfBody: false)
            if let early = session.feed(body) { return (session, early) }
            return (session, session.receivedEnd())
        }

        var waiting: Double { fixture.metric("llm_d_epp_flow_control_queue_size") }
    }

    /// Counts the calls of a listener.
    private final class Bell: Sendable {
        private let rings = Atomic<Int>(0)
        var count: Int { rings.load(ordering: .relaxed) }
        func ring() { rings.add(1, ordering: .relaxed) }
    }

    private func bell(on session: RequestSession) throws -> Bell {
        let bell = Bell()
        try #require(session.unheardTicket).listen { bell.ring() }
        #expect(session.unheardTicket == nil)
        return bell
    }

    @Test func theNextGoesOnWhenOneEnds() throws {
        let stage = try Stage()
        let (first, step) = stage.start()
        #expect(step.decision != nil)
        #expect(first.unheardTicket == nil)
        let (second, waiting) = stage.start()
        guard case .wait = waiting else {
            Issue.record("\(waiting)")
            return
        }
        let bell = try bell(on: second)
        #expect(stage.waiting == 1)
        if case .more = second.signalled() {} else { Issue.record("a signal out of nowhere") }
        #expect(bell.count == 0)
        first.completed(.finished)
        #expect(bell.count == 1)
        #expect(stage.waiting == 0)
        #expect(second.signalled().decision != nil)
        #expect(stage.fixture.inFlight == [1])
        second.completed(.finished)
        #expect(stage.fixture.inFlight == [0])
        #expect(stage.fixture.metric("llm_d_epp_flow_control_requests_total", "Dispatched") == 2)
    }

    private func tokens(_ configuration: inout FlowControlConfiguration) {
        var detector = ConcurrencyDetector()
        detector.mode = .tokens
        detector.maxTokenConcurrency = 3
        configuration.detector = detector
    }

    /// An engine sends the head of a stream before it has begun.
    @Test func theNextPromptGoesOnWithTheFirstTokenOfTheLast() throws {
        let stage = try Stage(tokens)
        let (first, _) = stage.start()
        let (second, _) = stage.start()
        let bell = try bell(on: second)
        first.responseStarted(status: 200)
        #expect(stage.fixture.prefillTokensInFlight == 3)
        stage.flow.tick()
        #expect(bell.count == 0)
        first.respond("data: a\n\n")
        #expect(bell.count == 1)
        #expect(stage.fixture.prefillTokensInFlight == 0)
        #expect(second.signalled().decision != nil)
        first.respond("data: b\n\n")
        #expect(stage.fixture.prefillTokensInFlight == 3)
    }

    /// What is on its way counts by its prompt, however many requests only generate.
    @Test func oneTurnLetsNoMoreThroughThanThereIsRoomFor() throws {
        let stage = try Stage(tokens)
        let generating = (0..<20).map { _ in
            let (session, step) = stage.start()
            #expect(step.decision != nil)
            session.responseStarted(status: 200)
            session.respond("data: a\n\n")
            return session
        }
        let (first, _) = stage.start()
        let waiting = (0..<5).map { _ in stage.start().0 }
        #expect(stage.waiting == 5)
        first.responseStarted(status: 200)
        first.respond("data: a\n\n")
        #expect(stage.waiting == 4)
        withExtendedLifetime((generating, waiting)) {}
    }

    /// A request that was let through counts before any endpoint has it.
    @Test func nobodySlipsThroughBeforeTheDecision() throws {
        let stage = try Stage()
        let (first, _) = stage.start()
        let (second, _) = stage.start()
        let (third, _) = stage.start()
        first.completed(.finished)
        // The second has not woken yet.
        stage.flow.tick()
        #expect(stage.waiting == 1)
        #expect(second.signalled().decision != nil)
        stage.flow.tick()
        #expect(stage.waiting == 1)
        second.completed(.finished)
        #expect(third.signalled().decision != nil)
    }

    @Test func aSignalThatCameBeforeAnyoneListenedIsHeard() throws {
        let stage = try Stage()
        let (first, _) = stage.start()
        let (second, _) = stage.start()
        first.completed(.finished)
        #expect(try bell(on: second).count == 1)
    }

    @Test func aClientThatLeavesGivesItsPlaceBack() throws {
        let stage = try Stage()
        let (first, _) = stage.start()
        let (second, _) = stage.start()
        let (third, _) = stage.start()
        second.completed(.clientGone)
        #expect(stage.waiting == 1)
        #expect(
            stage.fixture.metric(
                "llm_d_epp_flow_control_requests_total", "EvictedContextCancelled") == 1)
        first.completed(.finished)
        // It is let through, and goes away before it wakes.
        third.completed(.clientGone)
        let (_, step) = stage.start()
        #expect(step.decision != nil)
    }

    @Test func aDroppedSessionGivesItsPlaceBack() throws {
        let stage = try Stage()
        do {
            let (first, _) = stage.start()
            let (second, _) = stage.start()
            withExtendedLifetime((first, second)) {}
        }
        #expect(stage.waiting == 0)
        #expect(stage.start().1.decision != nil)
    }

    @Test func waitingEndsWithTheTimeToLive() throws {
        let stage = try Stage { $0.defaultRequestTTL = .seconds(5) }
        let (first, _) = stage.start()
        let (second, _) = stage.start()
        let bell = try bell(on: second)
        stage.flow.tick(now: .now + .seconds(4))
        #expect(bell.count == 0)
        stage.flow.tick(now: .now + .seconds(5))
        #expect(bell.count == 1)
        let error = second.signalled().error
        #expect(error?.status == 429)
        #expect(error?.headers.first?.value == "rejected-ttl-expired")
        #expect(stage.fixture.metric("llm_d_epp_flow_control_requests_total", "EvictedTTL") == 1)
        first.completed(.finished)
    }

    @Test func onlySheddableRequestsAreEvictedAndOnlyOnce() throws {
        let stage = try Stage { $0.enableEviction = true }
        let (shed, _) = stage.start(["x-llm-d-inference-objective": "-3"])
        let evicted = try bell(on: shed)
        let (important, step) = stage.start(["x-llm-d-inference-objective": "1"])
        if case .wait = step {} else { Issue.record("\(step)") }
        #expect(evicted.count == 1)
        let error = try #require(shed.signalled().error)
        #expect(error.status == 429)
        #expect(error.message == "request evicted by flow control")
        #expect(important.signalled().decision != nil)
        // Whatever the I/O side still says of it counts no more.
        shed.completed(.finished)
        #expect(stage.fixture.inFlight == [1])
        important.completed(.finished)
        #expect(stage.fixture.inFlight == [0])
    }

    @Test func requestsWithoutABodyDoNotWait() throws {
        let stage = try Stage()
        let (first, _) = stage.start()
        let session = stage.fixture.session("GET", "/v1/models")
        #expect(session.begin(endOfBody: true).decision != nil)
        first.completed(.finished)
    }

    @Test func withoutQueuesOnlyWhatMayBeShedIsRefused() throws {
        let stage = try Stage(isEnabled: false)
        let (first, _) = stage.start(["x-llm-d-inference-objective": "-1"])
        #expect(stage.start().1.decision != nil)
        let error = stage.start(["x-llm-d-inference-objective": "-1"]).1.error
        #expect(error?.status == 429)
        #expect(error?.headers.first?.value == "rejected-saturated")
        first.completed(.finished)
    }

    /// Another router keeps the pool full, and has served one of those that wait.
    @Test func whatOtherRoutersHaveAndGaveCounts() throws {
        let stage = try Stage {
            var policy = LeastAttainedService()
            policy.weightHeadWait = 0
            $0.defaultBand.fairness = .leastAttained(policy)
        }
        let shared = SharedLoad(pool: stage.fixture.pool, flow: stage.flow)
        _ = shared.endpointsInFlight()
        shared.show(["d0": InFlightLoad(requests: 1)])
        let waiting = ["a", "b"].map { stage.start(["x-llm-d-inference-fairness-id": $0]).0 }
        #expect(stage.waiting == 2)
        shared.show([FlowID(fairnessID: "a", priority: 0): 5000], at: .now)
        shared.show(["d0": .none])
        stage.flow.tick()
        for session in waiting.reversed() {
            #expect(session.signalled().decision != nil)
            session.completed(.finished)
        }
        let told = shared.attainedServices(all: true, at: .now)
        #expect(Set(told.map(\.flow.fairnessID)) == ["a", "b"])
    }

    @Test func fairnessGoesByTheHeaderOfEitherName() throws {
        let stage = try Stage { $0.defaultBand.fairness = .roundRobin }
        let (first, _) = stage.start()
        let names = ["x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"]
        let waiting = [(0, "a"), (0, "a"), (1, "b")].map {
            stage.start([names[$0.0]: $0.1]).0
        }
        first.completed(.finished)
        for index in [0, 2, 1] {
            #expect(waiting[index].signalled().decision != nil)
            waiting[index].completed(.finished)
        }
    }

    @Test func theConfigurationNamesPolicies() throws {
        let admission = try admission(
            """
            featureGates: [flowControl]
            plugins:
            - {type: priority-holdback-policy, name: holdback, parameters: {minCeiling: 0.5}}
            - {type: concurrency-detector, parameters: {maxConcurrency: 7}}
            flowControl:
              usageLimitPolicyPluginRef: holdback
              saturationDetector: {pluginRef: concurrency-detector}
              defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}
            """)
        #expect(admission.isFlowControlEnabled)
        #expect(
            admission.flowControl.usageLimit == .holdback(min: 0.5, max: 1, byValue: false))
        #expect((admission.flowControl.detector as? ConcurrencyDetector)?.maxConcurrency == 7)
        #expect(admission.flowControl.defaultBand.fairness == .roundRobin)
        let declared = try shortAdmission(
            "saturationDetector: {}", "{type: utilization-detector, parameters: {metricsHold: 1s}}")
        let detector = try #require(declared.flowControl.detector as? UtilizationDetector)
        #expect(detector.metricsHold == .seconds(1))
        #expect(try !shortAdmission("featureGates: [flowControl=false]").isFlowControlEnabled)
        #expect(try !shortAdmission("").isFlowControlEnabled)
    }

    @Test(arguments: [
        (
            "featureGates: [flowcontrol]",
            "is no known feature: 'flowcontrol'; did you mean 'flowControl'?"
        ),
        ("featureGates: [flowControl=maybe]", "must be flowControl, flowControl=true or"),
        (
            "flowControl: {defaultPriorityBand: {orderingPolicyRef: fcfs-order-policy}}",
            "names no plugin: 'fcfs-order-policy'; did you mean 'fcfs-ordering-policy'?"
        ),
        (
            "flowControl: {usageLimitPolicyPluginRef: queue-scorer}",
            "names no policy of flow control"
        ),
        ("saturationDetector: {pluginRef: fcfs-ordering-policy}", "names no saturation detector"),
    ])
    func mistakesAreNamed(text: String, problem: String) {
        do {
            _ = try shortAdmission(text)
            Issue.record("'\(text)' was taken")
        } catch {
            #expect(error.line == 4)
            #expect(error.problem.contains(problem), "\(error)")
        }
    }

    @Test func policiesThatNobodyNamesAreChecked() {
        #expect(throws: ConfigError.self) {
            try shortAdmission("", "{type: priority-holdback-policy, parameters: {min: 1}}")
        }
    }

    private func shortAdmission(
        _ text: String, _ plugin: String = "{type: queue-scorer}"
    ) throws(ConfigError) -> AdmissionConfiguration {
        try admission("plugins: [\(plugin)]\n" + text)
    }

    private func admission(_ text: String) throws(ConfigError) -> AdmissionConfiguration {
        var registry = PluginRegistry.standard
        registry.reserve(FlowPolicy.types)
        return try AdmissionConfiguration(
            EndpointPickerConfig(
                parsing: "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n" + text,
                file: "test", registry: registry))
    }
}
