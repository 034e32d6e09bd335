import Configuration
import Core
import ModelServers
import Replay
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry
import Testing

@Suite struct ReplayTests {
    private static let common = """
        - {type: prefill-filter}
        - {type: decode-filter}
        - {type: utilization-detector}
        - {type: queue-scorer}
        - {type: kv-cache-utilization-scorer}
        - {type: prefix-cache-scorer}
        - {type: prefill-cost-scorer}
        - {type: lora-affinity-scorer}
        - {type: token-load-scorer}
        """

    private static func single(_ scorers: String, _ picker: String = "max-score-picker") -> (
        String, String
    ) {
        (
            common + "\n- {type: \(picker), name: picker, parameters: {maxNumOfEndpoints: 3}}",
            "- name: only\n  plugins: [{pluginRef: picker}, \(scorers)]"
        )
    }

    private static func pair(_ handler: String) -> (String, String) {
        (
            common + """

                - {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 400}}
                - {type: topology-affinity-scorer}
                - {type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}
                - type: disagg-profile-handler
                  parameters: {deciders: {prefill: prefix-based-pd-decider}, \(handler)}
                """,
            """
            - name: decode
              plugins:
              - {pluginRef: decode-filter}
              - {pluginRef: prefix-cache-scorer}
              - {pluginRef: kv-cache-utilization-scorer, weight: 2}
              - {pluginRef: max-score-picker}
            - name: prefill
              plugins:
              - {pluginRef: prefill-filter}
              - {pluginRef: prefill-cost-scorer}
              - {pluginRef: topology-affinity-scorer}
              - {pluginRef: max-score-picker}
            """
        )
    }

    /// Configurations that share the producer.
    private static let configurations = [
        single("{pluginRef: queue-scorer, weight: 2}, {pluginRef: prefix-cache-scorer, weight: 3}"),
        single("{pluginRef: queue-scorer, weight: 3}, {pluginRef: prefix-cache-scorer, weight: 2}"),
        single("{pluginRef: lora-affinity-scorer}, {pluginRef: token-load-scorer}"),
        single("{pluginRef: decode-filter}, {pluginRef: utilization-detector}"),
        single("{pluginRef: kv-cache-utilization-scorer}", "weighted-random-picker"),
        single("{pluginRef: kv-cache-utilization-scorer}", "random-picker"),
        pair("stageOrder: decode-first"),
        pair("stageOrder: prefill-first"),
        pair("stageOrder: joint, transfer: {costPerSecond: 10}"),
    ]

    /// Decisions of each configuration are written, read, and decided again with each: equal to
    /// what that one decides itself.
    @Test func replayDecidesAsTheConfigurationDoes() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("ReplayTests seed \(seed)")
        var random = RandomSource(seed: seed)
        let all = try Self.configurations.map { try configuration(plugins: $0.0, profiles: $0.1) }
        for (number, recording) in all.enumerated() {
            let folder = try Folder()
            let recorder = try folder.recorder(described(recording))
            let cycles = (0..<60).map { randomCycle(&random, generation: $0) }
            for cycle in cycles { recorder.record(record(recording.scheduler, cycle)) }
            let entries = try folder.entries()
            try #require(entries.count == cycles.count)
            for (other, replaying) in all.enumerated() {
                let hint: Comment = "seed \(seed), \(number) by \(other)"
                let replayer = try Replayer(replaying, file: "b.yaml")
                var report = ReplayReport()
                var changes = 0
                for (entry, cycle) in zip(entries, cycles) {
                    let expected = outcome(replaying.scheduler, cycle)
                    #expect(replayer.replay(entry) == .decided(expected), hint)
                    report.add(entry, with: replayer)
                    if !isSame(entry.decision.outcome, expected) { changes += 1 }
                }
                #expect(report.decisionCount == 60 && report.replayedCount == 60, hint)
                #expect(report.changedCount == changes, hint)
                if number == other { #expect(changes == 0, hint) }
            }
        }
    }

    private func isSame(_ left: DecisionRecord.Outcome, _ right: DecisionRecord.Outcome) -> Bool {
        switch (left, right) {
        case (.picked(let left), .picked(let right)):
            left.primary.first?.index == right.primary.first?.index
                && left.prefill.first?.index == right.prefill.first?.index
        default: left == right
        }
    }

    /// A router under load, with a real producer whose findings change from request to request.
    @Test func aRouterRecords() throws {
        func load(_ weight: Int) throws -> EndpointPickerConfig {
            try EndpointPickerConfig(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins: [{type: active-request-scorer}, {type: prefix-cache-scorer}]
                    schedulingProfiles:
                    - name: only
                      plugins:
                      - {pluginRef: active-request-scorer, weight: \(weight)}
                      - {pluginRef: prefix-cache-scorer, weight: 3}
                    """, file: "a.yaml", registry: .standard)
        }
        let recorded = try load(1)
        let folder = try Folder()
        let recorder = try folder.recorder(described(recorded))
        let pool = EndpointPool()
        pool.update(
            (0..<4).map {
                ModelServer(name: "e\($0)", address: SocketAddress(host: "10.0.0.\($0)", port: 1))
            })
        let router = Router(
            pool: pool, scheduler: recorded.scheduler,
            metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "t"),
            recorder: recorder)
        var sessions: [RequestSession] = []
        var targets: [String] = []
        for turn in 0..<60 {
            let prompt = String(repeating: "prompt \(turn % 5) ", count: 100)
            let session = RequestSession(
                router: router, method: "POST", path: "/v1/completions",
                headers: NoHeaders(values: ["x-request-id": "request-\(turn)"]))
            _ = session.begin(endOfBody: false)
            _ = Array(#"{"model":"m","prompt":"\#(prompt)"}"#.utf8).withUnsafeBytes {
                session.received($0)
            }
            guard case .route(let decision) = session.receivedEnd() else {
                Issue.record("no route")
                return
            }
            targets.append(decision.endpoint.server.name)
            #expect(decision.scores.isEmpty)
            sessions.append(session)
            if turn % 3 == 0 { sessions.removeFirst() }
        }
        let entries = try folder.entries()
        #expect(entries.map(\.decision.id) == (0..<60).map { "request-\($0)" })
        let names = entries.map { entry in
            if case .picked(let result) = entry.decision.outcome {
                entry.decision.pool.endpoints[result.primary[0].index].server.name
            } else {
                ""
            }
        }
        #expect(names == targets)
        var same = ReplayReport()
        let again = try Replayer(load(1), file: "a.yaml")
        for entry in entries { same.add(entry, with: again) }
        #expect(same.changedCount == 0 && same.replayedCount == 60)
        var other = ReplayReport()
        let heavier = try Replayer(load(30), file: "b.yaml")
        for entry in entries { other.add(entry, with: heavier) }
        #expect(other.replayedCount == 60 && other.changedCount > 0)
        #expect(other.changes.keys.contains("scores, most by 'active-request-scorer'"))
    }

    // MARK: - What is not known

    private func entries(_ recording: EndpointPickerConfig) throws -> [RecordReader.Entry] {
        let folder = try Folder()
        let recorder = try folder.recorder(described(recording))
        var random = RandomSource(seed: 3)
        for generation in 0..<20 {
            var cycle = randomCycle(&random, generation: generation)
            cycle.eligible = Array(cycle.context.endpoints.indices)
            // Nothing is refused before it comes to profiles.
            cycle.context.request.priority = 0
            cycle.context.request.headers = NoHeaders(values: ["x-session-token": "bnMvZTA="])
            recorder.record(record(recording.scheduler, cycle))
        }
        return try folder.entries()
    }

    private func report(
        _ recording: EndpointPickerConfig, _ replaying: EndpointPickerConfig
    ) throws -> ReplayReport {
        var report = ReplayReport()
        let replayer = try Replayer(replaying, file: "b.yaml")
        for entry in try entries(recording) { report.add(entry, with: replayer) }
        return report
    }

    @Test(arguments: [
        ("- {type: round-robin-picker}", "'round-robin-picker' goes by whose turn it is"),
        ("- {type: header-profile-handler}", "'header-profile-handler' goes by a header"),
    ])
    func whatNoRecordHoldsIsRefused(_ plugin: String, _ part: String) throws {
        let configuration = try configuration(plugins: plugin)
        #expect { try Replayer(configuration, file: "b.yaml") } throws: {
            "\($0)".hasPrefix("b.yaml: cannot be replayed: \(part)")
        }
    }

    /// A scorer that goes by headers counts with what it said, as long as it is asked the same.
    @Test func recordedScoresStandForTheirScorers() throws {
        func config(_ session: Int, _ queue: Int, filter: String = "") throws
            -> EndpointPickerConfig
        {
            try configuration(
                plugins: "- {type: session-affinity-scorer}\n- {type: queue-scorer}\n"
                    + "- {type: decode-filter}\n- {type: session-affinity-filter}",
                profiles: "- name: p\n  plugins: [\(filter){pluginRef: session-affinity-scorer, "
                    + "weight: \(session)}, {pluginRef: queue-scorer, weight: \(queue)}]")
        }
        let recorded = try config(1, 1)
        #expect(try report(recorded, config(1, 1)).changedCount == 0)
        let other = try report(recorded, config(0, 1))
        #expect(other.replayedCount == 20)
        // Other candidates, and a filter that was not asked.
        let fewer = try report(recorded, config(1, 1, filter: "{pluginRef: decode-filter}, "))
        #expect(fewer.unknown.keys.allSatisfy { $0.contains("'session-affinity-scorer' says") })
        #expect(fewer.replayedCount < 20 && fewer.replayedCount > 0)
        let filtered = try report(
            recorded, config(1, 1, filter: "{pluginRef: session-affinity-filter}, "))
        #expect(filtered.replayedCount == 0)
        #expect(filtered.unknown.keys.allSatisfy { $0.contains("'session-affinity-filter' says") })
        let both = try config(1, 1, filter: "{pluginRef: session-affinity-filter}, ")
        #expect(try report(both, both).changedCount == 0)
        #expect(try report(both, both).replayedCount == 20)
        // Other parameters, other scores.
        let header = "{encodedEndpointHeaderConfig: {header: x-y}}"
        let scorer = try configuration(
            plugins: "- {type: session-affinity-scorer, parameters: \(header)}",
            profiles: "- {name: p, plugins: [{pluginRef: session-affinity-scorer}]}")
        #expect(try report(recorded, scorer).replayedCount == 0)
        let changed = try configuration(
            plugins: "- {type: session-affinity-filter, parameters: \(header)}",
            profiles: "- {name: p, plugins: [{pluginRef: session-affinity-filter}]}")
        #expect(try report(both, changed).replayedCount == 0)
    }

    /// What a filter leaves of some it need not leave of others.
    @Test(arguments: [
        ("", "{pluginRef: decode-filter}, "), ("{pluginRef: decode-filter}, ", ""),
    ])
    func recordedFiltersStandForWhatTheyWereAsked(recorded: String, replayed: String) throws {
        func config(_ before: String) throws -> EndpointPickerConfig {
            try configuration(
                plugins: "- {type: session-affinity-filter}\n- {type: decode-filter}",
                profiles: "- {name: p, plugins: [\(before){pluginRef: session-affinity-filter}]}")
        }
        #expect(try report(config(recorded), config(recorded)).replayedCount == 20)
        let other = try report(config(recorded), config(replayed))
        #expect(other.replayedCount > 0 && other.replayedCount < 20)
    }

    @Test func findingsOfOtherProducersAreUnknown() throws {
        let plain = try configuration(plugins: "- {type: queue-scorer}")
        let prefix = try configuration(plugins: "- {type: prefix-cache-scorer}")
        let other = try configuration(
            plugins: "- {type: approx-prefix-cache-producer, parameters: {blockSizeTokens: 32}}\n"
                + "- {type: prefix-cache-scorer}")
        let explicit = try configuration(
            plugins: "- {type: approx-prefix-cache-producer, parameters: {}}\n"
                + "- {type: prefix-cache-scorer, parameters: {matchLengthWeight: 1}}")
        #expect(try report(plain, prefix).unknown.values.reduce(0, +) == 20)
        #expect(try report(prefix, other).unknown.values.reduce(0, +) == 20)
        #expect(try report(prefix, plain).replayedCount == 20)
        #expect(try report(prefix, explicit).replayedCount == 20)
        #expect(
            try report(plain, prefix).text.contains(
                "  20 not: unknown is what 'approx-prefix-cache-producer' finds out: "
                    + "it was not there, or had other parameters\n"))
    }

    @Test func attributesThatWereNotScrapedAreUnknown() throws {
        func config(_ attribute: String) throws -> EndpointPickerConfig {
            try configuration(
                plugins: "- {type: endpoint-attribute-scorer, parameters: {attributeKey: "
                    + "\(attribute), algorithm: {type: linear_lower_is_better}}}")
        }
        let recorded = try config("KVCacheUsagePercent")
        #expect(try report(recorded, config("match")).replayedCount == 20)
        #expect(
            try report(recorded, config("temperature")).unknown
                == ["the attribute 'temperature' of endpoints": 20])
    }

    // MARK: - The report

    /// Three requests, of which one is filtered, one scored otherwise, one the same.
    @Test func theReportSaysWhatChangesAndWhy() throws {
        let old = try configuration(plugins: "- {type: queue-scorer}")
        let new = try configuration(
            plugins: "- {type: kv-cache-utilization-scorer}\n- type: label-selector-filter\n"
                + "  parameters: {matchLabels: {ok: yes}}")
        let folder = try Folder()
        let recorder = try folder.recorder(described(old))
        for (id, waiting, kv, ok) in [
            ("filtered", [0, 1], [0.5, 0.5], [false, true]),
            ("scored", [0, 1], [0.5, 0.1], [true, true]),
            ("same", [1, 0], [0.5, 0.1], [true, true]),
            ("refused", [1, 0], [0.5, 0.1], [false, false]),
        ] {
            var cycle = SchedulingCycle(
                request: SchedulingRequest(
                    id: id, model: "m", headers: NoHeaders(), promptTokenCount: 100), seed: 1)
            for index in 0..<2 {
                cycle.context.endpoints.append(
                    Endpoint(
                        ModelServer(
                            name: ["a", "long"][index],
                            address: SocketAddress(host: "10.0.0.\(index)", port: 1),
                            labels: ok[index] ? ["ok": "yes"] : [:]), id: UInt32(index)))
                var load = ServerLoad()
                load.waitingCount = waiting[index]
                load.kvUsage = kv[index]
                cycle.context.loads.append(load)
            }
            cycle.context.poolGeneration = id.utf8.count
            cycle.context.inFlight = [0, 0]
            cycle.context.prefillTokensInFlight = [0, 0]
            cycle.eligible = [0, 1]
            recorder.record(record(old.scheduler, cycle))
        }
        var report = ReplayReport()
        let replayer = try Replayer(new, file: "b.yaml")
        for entry in try folder.entries() { report.add(entry, with: replayer) }
        #expect(
            report.text == """
                4 decisions, 4 decided again
                3 of 4 go elsewhere (75.0 %)
                  1 (25.0 %): 'label-selector-filter' rules the old endpoint out
                  1 (25.0 %): refused: filtered by label-selector-filter in default
                  1 (25.0 %): scores, most by 'kv-cache-utilization-scorer'

                endpoint  requests  then  prefills  then  tokens computed  then
                a                2     0         0     0              200     0
                long             2     3         0     0              200   300

                """)
    }
}
