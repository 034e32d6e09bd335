import Core
import Replay
import Scheduling
import SchedulingPlugins
import Testing

/// Why decisions go elsewhere, and what goes to whom.
@Suite struct ReportTests {
    /// An endpoint; `ok` is a label.
    struct Node {
        var role = "decode"
        var waiting = 0
        var kv = 0.0
        var matched = 0
        var ok = true
    }

    /// What a change from `old` to `new` does to a request of 100 tokens.
    private func report(
        _ nodes: [Node], _ old: EndpointPickerConfig, _ new: EndpointPickerConfig,
        seeds: Range<UInt64> = 0..<1
    ) throws -> ReplayReport {
        let folder = try Folder()
        let recorder = try folder.recorder(described(old))
        for seed in seeds {
            var cycle = SchedulingCycle(
                request: SchedulingRequest(
                    id: "r", model: "m", headers: NoHeaders(), promptTokenCount: 100), seed: seed)
            for (index, node) in nodes.enumerated() {
                var labels = ["llm-d.ai/role": node.role]
                if node.ok { labels["ok"] = "yes" }
                cycle.context.endpoints.append(
                    Endpoint(
                        ModelServer(
                            name: "e\(index)",
                            address: SocketAddress(host: "10.0.0.\(index)", port: 1),
                            labels: labels), id: UInt32(index)))
                var load = ServerLoad()
                load.waitingCount = node.waiting
                load.kvUsage = node.kv
                load.attributes["match"] = Double(node.matched)
                cycle.context.loads.append(load)
                cycle.context.inFlight.append(0)
                cycle.context.prefillTokensInFlight.append(0)
                cycle.eligible.append(index)
            }
            cycle.context.poolGeneration = 1
            recorder.record(record(old.scheduler, cycle))
        }
        var report = ReplayReport()
        let replayer = try Replayer(new, file: "b.yaml")
        for entry in try folder.entries() { report.add(entry, with: replayer) }
        return report
    }

    @Test func chanceIsCalledChance() throws {
        let old = try configuration(plugins: "- {type: queue-scorer}")
        let new = try configuration(plugins: "- {type: kv-cache-utilization-scorer}")
        let report = try report(
            [Node(waiting: 1), Node(waiting: 0)], old, new, seeds: 0..<20)
        #expect(Array(report.changes.keys) == ["equal scores, by chance"])
    }

    /// The scorer that both endpoints please most is not the one that decides.
    @Test func theScorerThatGainsMostIsNamed() throws {
        let old = try configuration(plugins: "- {type: queue-scorer}")
        let new = try configuration(
            plugins: "- {type: queue-scorer}\n- {type: token-load-scorer}\n"
                + "- {type: kv-cache-utilization-scorer}",
            profiles: """
                - name: default
                  plugins:
                  - {pluginRef: queue-scorer}
                  - {pluginRef: token-load-scorer, weight: 50}
                  - {pluginRef: kv-cache-utilization-scorer, weight: 3}
                """)
        let report = try report(
            [Node(waiting: 0, kv: 0.9), Node(waiting: 1, kv: 0.1)], old, new)
        #expect(report.changes == ["scores, most by 'kv-cache-utilization-scorer'": 1])
    }

    @Test func whoWasRuledOutIsTold() throws {
        let old = try configuration(
            plugins: "- {type: queue-scorer}\n- type: label-selector-filter\n"
                + "  parameters: {matchLabels: {ok: yes}}")
        let new = try configuration(plugins: "- {type: queue-scorer}")
        let report = try report([Node(waiting: 1), Node(ok: false)], old, new)
        #expect(report.changes == ["'label-selector-filter' ruled the new endpoint out": 1])
    }

    private func stages(_ order: String, _ scorer: String, decider: String) throws
        -> EndpointPickerConfig
    {
        try configuration(
            plugins: """
                - {type: prefill-filter}
                - {type: decode-filter}
                - {type: queue-scorer}
                - {type: kv-cache-utilization-scorer}
                - {type: prefix-cache-scorer}
                - \(decider)
                - type: disagg-profile-handler
                  parameters: {stageOrder: \(order), deciders: {prefill: decider}}
                """,
            profiles: """
                - name: decode
                  plugins: [{pluginRef: decode-filter}, {pluginRef: \(scorer)}]
                - name: prefill
                  plugins: [{pluginRef: prefill-filter}]
                """)
    }

    private static let never = "{type: prefix-based-pd-decider, name: decider}"
    private static let always = "{type: always-disagg-pd-decider, name: decider}"

    @Test func reasonsAreThoseOfTheStageThatChanged() throws {
        let nodes = [Node(kv: 0.5), Node(waiting: 1), Node(role: "prefill")]
        for order in ["decode-first", "prefill-first"] {
            let report = try report(
                nodes, stages(order, "queue-scorer", decider: Self.always),
                stages(order, "kv-cache-utilization-scorer", decider: Self.always))
            #expect(report.changes == ["scores, most by 'kv-cache-utilization-scorer'": 1])
        }
    }

    /// The decode endpoint holds 2 blocks of 16, who prefills none.
    @Test func prefillsAndTokensAreCountedWhereTheyAre() throws {
        let nodes = [Node(matched: 2), Node(role: "prefill")]
        let alone = try stages("decode-first", "queue-scorer", decider: Self.never)
        let apart = try stages("decode-first", "queue-scorer", decider: Self.always)
        let split = try report(nodes, alone, apart)
        #expect(split.changes == ["prefill elsewhere that was at home": 1])
        #expect(
            split.text.hasSuffix(
                """
                endpoint  requests  then  prefills  then  tokens computed  then
                e0               1     1         0     0               68     0
                e1               0     0         0     1                0   100

                """), "\(split.text)")
        #expect(
            try report(nodes, apart, alone).changes == ["prefill at home that was elsewhere": 1])
    }

    /// How an index is shared changes nothing about what it finds.
    @Test func pluginsAreToldApartByTheirParameters() throws {
        func producer(_ parameters: String) throws -> RecordedPlugin {
            let configuration = try configuration(
                plugins: "- {type: approx-prefix-cache-producer, parameters: \(parameters)}")
            return try #require(
                described(configuration).first {
                    $0.type == "approx-prefix-cache-producer"
                })
        }
        let plain = try producer("{blockSizeTokens: 32}")
        #expect(try plain == producer("{\"blockSizeTokens\": \"32\"}"))
        #expect(try plain == producer("{blockSizeTokens: 32, kvBlockIndexConfig: {a: {b: c}}}"))
        #expect(try plain != producer("{blockSizeTokens: 64}"))
        #expect(try plain != producer("{}"))
    }
}
