import Core
import Dispatch
import ModelServers
import RequestPipeline
import Scheduling
import Synchronization
import Testing

func rewrite(
    _ name: String, createdAt: Int = 0, _ rules: (models: [String], targets: [(String, Int?)])...
) -> ModelRewrite {
    ModelRewrite(
        name: name, createdAt: createdAt,
        rules: rules.map {
            ModelRewrite.Rule(
                models: $0.models,
                targets: $0.targets.map { ModelRewrite.Target(model: $0.0, weight: $0.1) })
        })
}

@Suite struct ModelRewriteTests {
    private func fixture(
        _ rewrites: ModelRewrite..., seed: UInt64 = 1,
        _ adjust: (inout RouterConfiguration) -> Void = { _ in }
    ) throws -> Fixture {
        let fixture = try Fixture(policy: .load) {
            $0.seed = seed
            adjust(&$0)
        }
        fixture.pool.setRules(TrafficRules(rewrites: rewrites))
        return fixture
    }

    /// The model that an engine would be asked for; nil if the request was refused.
    private func target(
        _ fixture: Fixture, _ model: String?, headers: [String: String] = [:]
    ) -> String? {
        let session = fixture.session(headers: headers)
        _ = session.begin(endOfBody: false)
        _ = session.feed(
            model.map { #"{"model":"\#($0)","prompt":[1]}"# } ?? #"{"prompt":[1]}"#)
        let decision = session.receivedEnd().decision
        session.completed(.finished)
        return decision?.targetModel
    }

    // MARK: - Which rule

    @Test func theBodyIsChangedInOnePlace() throws {
        let fixture = try fixture(rewrite("r", (["old"], [("new/1", nil)])))
        let (session, step) = fixture.step(
            #"{ "prompt" : [1, 2],"model": "old" , "x":{"model":"old"}, "n":1.50}"#)
        let decision = try #require(step.decision)
        #expect(decision.model == "old")
        #expect(decision.targetModel == "new/1")
        #expect(
            String(decoding: session.body, as: UTF8.self)
                == #"{"prompt" : [1, 2],"model":"new/1","x":{"model":"old"}, "n":1.50}"#)
        session.completed(.finished)
        #expect(
            fixture.metric(
                "llm_d_epp_model_rewrite_decisions_total",
                #"{model_rewrite_name="r",model_name="old",target_model="new/1"}"#) == 1)
        #expect(
            fixture.metric(
                "llm_d_epp_request_total", #"model_name="old",target_model_name="new/1""#) == 1)
    }

    @Test func whatNoRuleMatchesStaysAsItIs() throws {
        let fixture = try fixture(rewrite("r", (["old"], [("new", nil)])))
        let body = #"{"model": "other","prompt":[1]}"#
        let (session, step) = fixture.step(body)
        #expect(step.decision?.targetModel == "other")
        #expect(session.body == Array(body.utf8))
        #expect(!session.rewritesResponse)
        session.completed(.finished)
        #expect(fixture.metric("llm_d_epp_model_rewrite_decisions_total") == 0)
    }

    @Test func exactGoesBeforeGenericThenTheOlderThenTheFirst() throws {
        let fixture = try fixture(
            rewrite(
                "young", createdAt: 9, (["a"], [("young-a", nil)]), (["b"], [("young-b", nil)])),
            rewrite("generic", createdAt: 1, ([], [("any", nil)]), ([], [("never", nil)])),
            rewrite(
                "old", createdAt: 2, (["a", "c"], [("old-a", nil)]), (["c"], [("never", nil)])))
        #expect(target(fixture, "a") == "old-a")
        #expect(target(fixture, "b") == "young-b")
        #expect(target(fixture, "c") == "old-a")
        #expect(target(fixture, "d") == "any")
        #expect(target(fixture, nil) == "any")
    }

    @Test func aRequestWithoutAModelMayBeGivenOne() throws {
        let fixture = try fixture(rewrite("g", ([], [("m", nil)])))
        let (session, step) = fixture.step(#"{"prompt":[1]}"#)
        #expect(step.decision?.model == "m")
        #expect(String(decoding: session.body, as: UTF8.self) == #"{"prompt":[1],"model":"m"}"#)
        #expect(!session.rewritesResponse)
        session.completed(.finished)
        let exact = try self.fixture(rewrite("e", (["x"], [("m", nil)])))
        #expect(exact.step(#"{"prompt":[1]}"#).1.error?.param == "model")
    }

    @Test(arguments: ["x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite"])
    func aHeaderNamesTheTargetUnlessARuleDoes(header: String) throws {
        let fixture = try fixture(rewrite("r", (["old"], [("ruled", nil)])))
        #expect(target(fixture, "m", headers: [header: "told"]) == "told")
        #expect(target(fixture, nil, headers: [header: "told"]) == "told")
        #expect(target(fixture, "old", headers: [header: "told"]) == "ruled")
        #expect(target(fixture, "m", headers: [header: ""]) == "m")
    }

    @Test func anAliasMayHideAModelThatMayNotBeAskedFor() throws {
        let fixture = try fixture(rewrite("r", (["alias"], [("hidden", nil)]))) {
            $0.models = ["public"]
        }
        #expect(target(fixture, "alias") == "hidden")
        #expect(target(fixture, "hidden") == nil)
        #expect(target(fixture, "public") == "public")
    }

    /// An engine that is asked for tokens knows the target alone.
    @Test(arguments: ["/v1/chat/completions", "/v1/messages"])
    func tokensAreAskedForUnderTheTargetsName(path: String) throws {
        let fixture = try Fixture()
        fixture.pool.setRules(
            TrafficRules(rewrites: [rewrite("r", (["old"], [("new", nil)]))]))
        let (session, step) = fixture.step(
            #"{"model":"old","messages":[{"role":"user","content":"a"}]}"#, path: path)
        let question = try #require(step.question)
        #expect(
            String(decoding: question.body, as: UTF8.self)
                == #"{"model":"new","messages":[{"role":"user","content":"a"}]}"#)
        session.completed(.clientGone)
    }

    // MARK: - Weights

    private static let weights: [[Int?]] = [
        [90, 10], [1, 1, 1], [nil, nil, nil, nil], [1, 999_999], [70, nil, 30], [1],
    ]

    @Test(arguments: [UInt64](1...3), weights)
    func weightsAreKeptWithinOnePercent(seed: UInt64, weights: [Int?]) throws {
        let targets = weights.enumerated().map { ("t\($0.offset)", $0.element) }
        let fixture = try fixture(rewrite("r", (["m"], targets)), seed: seed)
        let count = 10_000
        var counts: [String: Int] = [:]
        for _ in 0..<count { counts[try #require(target(fixture, "m")), default: 0] += 1 }
        let effective =
            weights.contains { $0 != nil } ? weights.map { $0 ?? 0 } : weights.map { _ in 1 }
        for (index, weight) in effective.enumerated() {
            let expected = Double(weight) / Double(effective.reduce(0, +))
            let part = Double(counts["t\(index)"] ?? 0) / Double(count)
            #expect(abs(part - expected) < 0.01, "seed \(seed): t\(index)")
            if weight == 0 { #expect(counts["t\(index)"] == nil) }
        }
    }

    /// Each thread that decides counts for itself.
    @Test(arguments: [UInt64](1...3))
    func weightsAreKeptByManyThreads(seed: UInt64) throws {
        let fixture = try fixture(rewrite("r", (["m"], [("v1", 90), ("v2", 10)])), seed: seed)
        let counts = Mutex<[String?: Int]>([:])
        DispatchQueue.concurrentPerform(iterations: 8) { _ in
            var own: [String?: Int] = [:]
            for _ in 0..<1250 { own[target(fixture, "m"), default: 0] += 1 }
            counts.withLock { $0.merge(own, uniquingKeysWith: +) }
        }
        let v2 = try #require(counts.withLock(\.self)["v2"])
        #expect(abs(v2 - 1000) < 100, "seed \(seed)")
        #expect(counts.withLock { $0["v1"] } == 10_000 - v2, "seed \(seed)")
    }

    @Test func aSmallPartComesEvenly() throws {
        let fixture = try fixture(rewrite("r", (["m"], [("v1", 95), ("v2", 5)])))
        for _ in 0..<10 {
            let count = (0..<100).count { _ in target(fixture, "m") == "v2" }
            #expect((4...6).contains(count))
        }
    }

    @Test func theSameSeedChoosesTheSame() throws {
        func choices(_ seed: UInt64) throws -> [String?] {
            let fixture = try fixture(
                rewrite("r", (["m"], [("a", 1), ("b", 2), ("c", 3)])), seed: seed)
            return (0..<200).map { _ in target(fixture, "m") }
        }
        #expect(try choices(7) == choices(7))
        #expect(try choices(7) != choices(8))
    }

    // MARK: - What engines have

    @Test func aTargetThatNoEngineListsIsPassedOver() throws {
        let fixture = try fixture(rewrite("r", (["m"], [("v1", 1), ("v2", 1)])))
        for member in fixture.pool.snapshot.members { fixture.pool.setModels(["v1"], of: member) }
        #expect(Set((0..<20).map { _ in target(fixture, "m") }) == ["v1"])
        fixture.pool.setModels(["v1", "v2"], of: fixture.pool.snapshot.members[2])
        #expect(Set((0..<20).map { _ in target(fixture, "m") }) == ["v1", "v2"])
    }

    @Test func aRuleThatLeadsNowhereIs404UnderTheClientsName() throws {
        let fixture = try fixture(rewrite("r", (["alias"], [("gone", nil)])))
        for member in fixture.pool.snapshot.members { fixture.pool.setModels(["m"], of: member) }
        let error = try #require(fixture.step(#"{"model":"alias","prompt":[1]}"#).1.error)
        #expect(error.status == 404)
        #expect(error.message == "The model `alias` does not exist. Valid aliases: alias, m.")
    }

    @Test func onlyEnginesThatHaveTheModelAreAsked() throws {
        let fixture = try Fixture(policy: .random)
        let members = fixture.pool.snapshot.members
        for member in members.dropLast() { fixture.pool.setModels(["m"], of: member) }
        fixture.pool.setModels(["m", "lora"], of: members[3])
        for _ in 0..<20 {
            let (session, step) = fixture.step(#"{"model":"lora","prompt":[1]}"#)
            #expect(step.decision?.endpoint === members[3].endpoint)
            session.completed(.finished)
        }
    }

    @Test func onlyEnginesThatHaveTheModelAreAskedForTokens() throws {
        let fixture = try Fixture()
        let members = fixture.pool.snapshot.members
        for member in members.dropLast() { fixture.pool.setModels(["m"], of: member) }
        fixture.pool.setModels(["m", "lora"], of: members[3])
        let (session, step) = fixture.step(#"{"model":"lora","prompt":"text"}"#)
        #expect(step.question?.engines == [members[3].endpoint.server.address])
        session.completed(.clientGone)
    }

    @Test func anAdapterIsKnownToBelongToItsModel() throws {
        let probe = RequestProbe()
        let fixture = try Fixture(probe: probe)
        var adapter = ServedModel(id: "lora")
        adapter.parent = "base"
        for member in fixture.pool.snapshot.members {
            fixture.pool.setModels(["base", adapter], of: member)
        }
        fixture.step(#"{"model":"lora","prompt":[1]}"#).0.completed(.finished)
        #expect(probe.details.baseModel == "base")
        fixture.step(#"{"model":"base","prompt":[1]}"#).0.completed(.finished)
        #expect(probe.details.baseModel == nil)
    }

    /// An adapter's next version is rolled out by weights while engines load it and requests run:
    /// none fails, none goes to an engine that does not have what it is asked for.
    @Test(arguments: [UInt64](1...5))
    func anAdapterIsRolledOutWithoutAnError(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let servers = (0..<4).map { server("e\($0)", $0, role: .both) }
        let fixture = try Fixture(servers, policy: .load) { $0.seed = seed }
        var loaded: [String: Set<ServedModel>] = [:]
        func set(_ models: Set<ServedModel>, at index: Int) {
            let member = fixture.pool.snapshot.members[index]
            loaded[member.endpoint.server.name] = models
            fixture.pool.setModels(models.sorted { $0.id < $1.id }, of: member)
        }
        func setWeights(_ v1: Int?, _ v2: Int?) {
            let targets = [("v1", v1), ("v2", v2)].filter { $0.1 != nil }
            fixture.pool.setRules(
                TrafficRules(rewrites: [rewrite("reviews", (["reviews"], targets))]))
        }
        var open: [RequestSession] = []
        var counts: [String: Int] = [:]
        func ask(_ count: Int) throws {
            for _ in 0..<count {
                let (session, step) = fixture.step(#"{"model":"reviews","prompt":[1]}"#)
                let decision = try #require(step.decision, "seed \(seed): \(step)")
                let models = try #require(loaded[decision.endpoint.server.name])
                #expect(models.contains(ServedModel(id: decision.targetModel)), "seed \(seed)")
                counts[decision.targetModel, default: 0] += 1
                open.append(session)
                if open.count > 20 {
                    open.remove(at: Int.random(in: 0..<20, using: &random)).completed(.finished)
                }
            }
        }
        for index in 0..<4 { set(["base", "v1"], at: index) }
        setWeights(100, nil)
        try ask(100)
        // The weights change before any engine has the new version.
        setWeights(90, 10)
        try ask(100)
        #expect(counts["v2"] == nil)
        for index in 0..<4 {
            set(["base", "v1", "v2"], at: index)
            try ask(100)
        }
        #expect(counts["v2", default: 0] >= 35)
        for weight in [25, 50, 75, 99] {
            setWeights(100 - weight, weight)
            try ask(100)
        }
        setWeights(nil, 100)
        counts = [:]
        for index in 0..<4 {
            set(["base", "v2"], at: index)
            try ask(100)
        }
        #expect(counts == ["v2": 400])
        open = []
        #expect(fixture.inFlight == [0, 0, 0, 0])
        #expect(fixture.metric("llm_d_epp_request_error_total", #"error_code="404""#) == 0)
    }

    // MARK: - The list of models

    @Test func modelsOfAllEnginesAndRewritesAreListed() throws {
        let fixture = try fixture(rewrite("r", (["alias"], [("lora", nil)]), ([], [("b", nil)])))
        let members = fixture.pool.snapshot.members
        guard case .route = fixture.session("GET", "/v1/models").begin(endOfBody: true) else {
            Issue.record("an engine must be asked while none has listed its models")
            return
        }
        var adapter = ServedModel(id: "lora")
        adapter.parent = "b"
        adapter.root = "/adapters/lora"
        var base = ServedModel(id: "b")
        base.maximumLength = 4096
        base.owner = "vllm"
        fixture.pool.setModels([base, adapter], of: members[0])
        fixture.pool.setModels([base, "a"], of: members[1])
        let step = fixture.session("GET", "/v1/models").begin(endOfBody: true)
        guard case .answer(let response) = step else {
            Issue.record("\(step)")
            return
        }
        #expect(response.status == 200)
        let created = try #require(response.body.firstMatch(of: /"created":(\d+)/)).output.1
        func model(_ id: String, _ owner: String, _ rest: String) -> String {
            #"{"id":"\#(id)","object":"model","created":\#(created),"#
                + #""owned_by":"\#(owner)",\#(rest)}"#
        }
        let models = [
            model("a", "llmd", #""root":"a","parent":null,"max_model_len":null"#),
            model("b", "vllm", #""root":"b","parent":null,"max_model_len":4096"#),
            model("lora", "llmd", #""root":"/adapters/lora","parent":"b","max_model_len":null"#),
            model("alias", "llmd", #""root":"/adapters/lora","parent":"b","max_model_len":null"#),
        ]
        #expect(
            response.body == #"{"object":"list","data":[\#(models.joined(separator: ","))]}"#)
    }

    // MARK: - Objectives

    @Test func requestsHaveThePriorityOfTheirObjective() throws {
        let probe = RequestProbe()
        let fixture = try Fixture(probe: probe)
        fixture.pool.setRules(
            TrafficRules(objectives: [InferenceObjective(name: "batch", priority: -5)]))
        // An endpoint of which nothing is known counts as full.
        for member in fixture.pool.snapshot.members {
            member.scraped(.load(ServerLoad()), at: .now)
        }
        for (headers, priority) in [
            (["x-llm-d-inference-objective": "batch"], -5),
            (["x-gateway-inference-objective": "batch"], -5),
            (["x-llm-d-inference-objective": "x", "x-gateway-inference-objective": "batch"], 0),
            (["x-llm-d-inference-objective": "unknown"], 0), ([:], 0),
        ] {
            #expect(target(fixture, "m", headers: headers) == "m")
            #expect(probe.priority == priority, "\(headers)")
        }
        _ = target(
            fixture, "m",
            headers: [
                "x-llm-d-inference-objective": "batch", "x-llm-d-inference-fairness-id": "tenant",
                "x-gateway-inference-fairness-id": "other",
            ])
        #expect(
            fixture.metric(
                "llm_d_epp_request_total",
                #"{model_name="m",target_model_name="m",fairness_id="tenant",priority="-5"}"#) == 1)
        #expect(
            fixture.metric("llm_d_epp_request_total", #"fairness_id="default-flow""#) == 5)
    }
}
