import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct DisaggregationTests {
    /// Endpoint 0 prefills, 1 decodes and holds `matched` blocks of 16 tokens of the prompt.
    private func cycle(promptTokens: Int, matched: Int) -> SchedulingCycle {
        var pool = context(
            count: 2, labels: [["llm-d.ai/role": "prefill"], ["llm-d.ai/role": "decode"]],
            promptTokenCount: promptTokens)
        let slot = pool.resetPrefixMatch(by: "approx-prefix-cache-producer", blockSize: 16)
        pool.prefixMatches[slot].totalBlocks = promptTokens / 16
        pool.prefixMatches[slot].matchedBlocks[1] = matched
        var cycle = SchedulingCycle(request: pool.request, seed: 1)
        cycle.context = pool
        cycle.eligible = [0, 1]
        return cycle
    }

    @Test(arguments: [
        ("{nonCachedTokens: 16}", 100, 0, true),
        ("{nonCachedTokens: 16}", 100, 6, false),
        ("{nonCachedTokens: 16}", 112, 6, true),
        ("{nonCachedTokens: 16, promptTokens: 113}", 112, 0, false),
        ("{}", 100_000, 0, false),
        ("{nonCachedTokens: 16}", 15, 0, false),
    ])
    func prefixBasedDecider(
        parameters: String, promptTokens: Int, matched: Int, disaggregates: Bool
    ) throws {
        let decider = try plugin(
            "prefix-based-pd-decider", parameters, as: PrefixBasedPDDecider.self)
        let cycle = cycle(promptTokens: promptTokens, matched: matched)
        #expect(decider.disaggregates(decode: 1, in: cycle.context) == disaggregates)
    }

    private func scheduler(decider: String) throws -> Scheduler {
        var registry = PluginRegistry.standard
        registry.register("approx-prefix-cache-producer") { source in StubProducer(&source) }
        return try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - type: disagg-profile-handler
                  parameters: {deciders: {prefill: \(decider)}}
                - type: \(decider)
                - {type: prefill-filter}
                - {type: decode-filter}
                - {type: max-score-picker, parameters: {maxNumOfEndpoints: 2}}
                schedulingProfiles:
                - name: decode
                  plugins: [{pluginRef: decode-filter}, {pluginRef: max-score-picker}]
                - name: prefill
                  plugins: [{pluginRef: prefill-filter}, {pluginRef: max-score-picker}]
                """,
            file: "t.yaml", registry: registry)
    }

    @Test func namesThePrefillEndpointInAHeader() throws {
        let scheduler = try scheduler(decider: "always-disagg-pd-decider")
        var cycle = cycle(promptTokens: 100, matched: 0)
        let result = try scheduler.schedule(&cycle)
        #expect(result.primary.map(\.index) == [1])
        #expect(result.prefill.map(\.index) == [0])
        #expect(
            scheduler.prepare(result, in: cycle.context) == [
                .set(name: "x-prefiller-host-port", value: "10.0.0.0:8000"),
                .remove(name: "x-encoder-hosts-ports"),
            ])
    }

    /// The sidecar goes down the list where the first prefiller fails.
    @Test(arguments: [
        (1, "10.0.0.2:8000"), (2, "10.0.0.2:8000,10.0.0.0:8000"),
        (3, "10.0.0.2:8000,10.0.0.0:8000,10.0.0.3:8000"),
        (64, "10.0.0.2:8000,10.0.0.0:8000,10.0.0.3:8000,10.0.0.4:8000"),
    ])
    func prefillersAreRankedForFailover(limit: Int, value: String) throws {
        let scheduler = try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - type: disagg-profile-handler
                  parameters: {deciders: {prefill: always-disagg-pd-decider}}
                - {type: always-disagg-pd-decider}
                - {type: prefill-filter}
                - {type: decode-filter}
                - {type: queue-scorer}
                - type: max-score-picker
                  name: prefill-picker
                  parameters: {maxNumOfEndpoints: \(limit)}
                schedulingProfiles:
                - {name: decode, plugins: [{pluginRef: decode-filter}]}
                - name: prefill
                  plugins:
                  - {pluginRef: prefill-filter}
                  - {pluginRef: queue-scorer}
                  - {pluginRef: prefill-picker}
                """,
            file: "t.yaml", registry: .standard)
        let pool = context(
            count: 5,
            labels: ["prefill", "decode", "prefill", "prefill", "prefill"].map {
                ["llm-d.ai/role": $0]
            }, loads: [2, 0, 1, 3, 4].map { load(waiting: $0) }, promptTokenCount: 100)
        var cycle = SchedulingCycle(request: pool.request, seed: 1)
        cycle.context = pool
        cycle.eligible = Array(0..<5)
        let result = try scheduler.schedule(&cycle)
        #expect(result.primary.map(\.index) == [1])
        #expect(
            scheduler.prepare(result, in: cycle.context).first
                == .set(name: "x-prefiller-host-port", value: value))
    }

    @Test func decodesAloneWithoutPrefillEndpoints() throws {
        let scheduler = try scheduler(decider: "always-disagg-pd-decider")
        var cycle = cycle(promptTokens: 100, matched: 0)
        cycle.eligible = [1]
        let result = try scheduler.schedule(&cycle)
        #expect(result.prefill.isEmpty)
        #expect(
            scheduler.prepare(result, in: cycle.context) == [
                .remove(name: "x-prefiller-host-port"),
                .remove(name: "x-encoder-hosts-ports"),
            ])
    }

    @Test func failsWithoutDecodeEndpoints() throws {
        let scheduler = try scheduler(decider: "always-disagg-pd-decider")
        var cycle = cycle(promptTokens: 100, matched: 0)
        cycle.eligible = [0]
        #expect(throws: SchedulingFailure.filtered(profile: "decode", filter: "decode-filter")) {
            try scheduler.schedule(&cycle)
        }
    }

    @Test func missingPrefillProfileIsAnError() {
        #expect(throws: (any Error).self) {
            try EndpointPickerConfig.scheduler(
                parsing: """
                    apiVersion: llm-d.ai/v1alpha1
                    kind: EndpointPickerConfig
                    plugins:
                    - type: disagg-profile-handler
                      parameters: {deciders: {prefill: always-disagg-pd-decider}}
                    - type: always-disagg-pd-decider
                    schedulingProfiles: [{name: decode, plugins: []}]
                    """,
                file: "t.yaml", registry: .standard)
        }
    }
}
