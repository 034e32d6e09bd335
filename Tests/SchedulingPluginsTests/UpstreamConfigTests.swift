import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct UpstreamConfigTests {
    private static let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

    private func load(_ body: String) throws(ConfigError) -> EndpointPickerConfig {
        var registry = PluginRegistry.standard
        registry.reserve(["round-robin-fairness-policy"])
        return try EndpointPickerConfig(
            parsing: Self.head + body, file: "r.yaml", registry: registry)
    }

    private func failure(_ body: String) -> String {
        do {
            _ = try load(body)
            return "loaded"
        } catch {
            return error.description
        }
    }

    @Test func nothingIsUpstreamsStandard() throws {
        for body in ["", "plugins: []\n"] {
            let scheduler = try load(body).scheduler
            let profile = try #require(scheduler.profiles.first)
            #expect(
                profile.scorers.map(\.scorer.name.type) == [
                    "queue-scorer", "kv-cache-utilization-scorer", "prefix-cache-scorer",
                ])
            #expect(profile.scorers.map(\.weight) == [2, 2, 3])
            #expect(profile.picker.name.type == "max-score-picker")
        }
    }

    /// What llm-d-router has that is neither deprecated nor about clusters.
    @Test(arguments: [
        "label-selector-filter", "prefill-filter", "decode-filter", "encode-filter",
        "prefix-cache-affinity-filter", "session-affinity-filter", "slo-headroom-tier-filter",
        "utilization-filter", "endpoint-attribute-filter", "topology-affinity-filter",
        "utilization-detector", "concurrency-detector", "header-based-testing-filter",
        "queue-scorer", "running-requests-size-scorer", "kv-cache-utilization-scorer",
        "load-aware-scorer", "active-request-scorer", "token-load-scorer", "prefix-cache-scorer",
        "lora-affinity-scorer", "no-hit-lru-scorer", "session-affinity-scorer",
        "header-label-affinity-scorer", "context-length-aware", "endpoint-attribute-scorer",
        "mm-embeddings-cache-scorer", "topology-affinity-scorer", "latency-scorer",
        "max-score-picker", "random-picker", "weighted-random-picker", "single-profile-handler",
        "disagg-profile-handler", "header-profile-handler", "prefix-based-pd-decider",
        "always-disagg-pd-decider", "always-disagg-multimodal-decider",
        "approx-prefix-cache-producer", "token-producer", "inflight-load-producer",
        "predicted-latency-producer", "burst-prefix-cache-producer",
        "mm-embeddings-cache-producer", "session-id-producer", "p2p-source-producer",
        "agent-identity", "request-attribute-reporter", "latency-slo-admitter",
        "probabilistic-admitter", "metrics-data-source", "core-metrics-extractor",
        "models-data-source", "k8s-notification-source", "endpoint-notification-source",
        "topology-extractor",
    ])
    func upstreamsTypesAreKnown(type: String) {
        #expect(PluginRegistry.standard.types.contains(type))
    }

    @Test func missingProducersAreMade() throws {
        let config = try load(
            """
            plugins:
            - {type: prefix-cache-scorer}
            - {type: mm-embeddings-cache-scorer}
            - {type: topology-affinity-scorer}
            - type: session-affinity-filter
              parameters:
                strategy: session_id
                sessionIdConfig: {sources: [{attribute: SessionID}]}
            """)
        #expect(
            Set(config.plugins(as: (any DataProducer).self).map(\.name.type)) == [
                "approx-prefix-cache-producer", "mm-embeddings-cache-producer",
                "topology-extractor", "session-id-producer",
            ])
        #expect(config.scheduler.promptNeeds == .media)
        #expect(config.scheduler.observesResponses)
    }

    @Test(arguments: [
        ("{type: latency-scorer}", 1), ("{type: slo-headroom-tier-filter}", 1),
        ("{type: latency-slo-admitter}", 1), ("{type: prefix-cache-affinity-filter}", 0),
        ("{type: prefix-cache-affinity-filter, parameters: {ttftSource: latencyPredictor}}", 1),
        ("{type: latency-scorer}, {type: latency-slo-admitter}", 1),
        ("{type: latency-scorer}, {type: predicted-latency-producer, name: mine}", 1),
    ])
    func aLatencyPredictorIsAskedWhereItIsRead(plugins: String, count: Int) throws {
        let config = try load("plugins: [\(plugins)]\n")
        #expect(config.plugins(as: PredictedLatencyProducer.self).count == count)
    }

    @Test func everySectionIsRead() throws {
        let config = try load(
            """
            featureGates: [flowControl, populate-non-leader-datastore=false]
            plugins:
            - {type: metrics-data-source, parameters: {scheme: http, path: /metrics, interval: 1s}}
            - type: core-metrics-extractor
              parameters:
                engineConfigs:
                - name: vllm
                  customMetrics:
                  - {attributeKey: depth, metricSpec: "my_depth{tier=gold, zone=\\"a\\"}"}
            - {type: endpoint-notification-source}
            - {type: approx-prefix-cache-producer}
            - {type: round-robin-fairness-policy, name: fair, parameters: {any: 1}}
            - {type: concurrency-detector, name: busy}
            - {type: queue-scorer}
            - {type: by-label-selector, parameters: {matchLabels: {a: b}}}
            - {type: by-label, parameters: {label: a, validValues: [b], allowsNoLabel: true}}
            - {type: disagg-headers-handler, parameters: {prefillProfile: p}}
            dataLayer:
              injectDefaults: false
              sources:
              - pluginRef: metrics-data-source
                extractors: [{pluginRef: core-metrics-extractor}]
              - pluginRef: endpoint-notification-source
                extractors: [{pluginRef: approx-prefix-cache-producer}]
            flowControl:
              saturationDetector: {pluginRef: busy}
              priorityBands: [{priority: 1, fairnessPolicyRef: fair}]
            schedulingProfiles:
            - {name: default, plugins: [{pluginRef: queue-scorer}]}
            """)
        #expect(
            config.featureGates == ["flowControl": true, "populate-non-leader-datastore": false])
        let spec = MetricSpec(name: "my_depth", labels: ["tier": "gold", "zone": "a"])
        #expect(
            config.engineMetrics.engines["vllm"]?.custom == [
                EngineMetrics.Custom(attribute: "depth", spec: spec)
            ])
        // What another room makes is handed on with its place.
        let band = try #require(config.flowControl?.member("priorityBands")).list()[0]
        let policy = try config.declaration(try #require(band.member("fairnessPolicyRef")))
        #expect(policy.type == "round-robin-fairness-policy")
        #expect(policy.parameters.line == 14)
    }

    @Test func enginesAreWhatTheExtractorSays() throws {
        let engines = try load(
            """
            plugins:
            - {type: metrics-data-source, parameters: {path: /m}}
            - type: core-metrics-extractor
              parameters:
                engineLabelKey: my/engine
                defaultEngine: atom
                engineConfigs:
                - name: atom
                  queuedRequestsSpec: "atom:waiting{kind=all}"
                  cacheInfoSpec: atom:cache
                  cacheBlockSizeLabelName: size
                  cacheNumBlocksSpec: atom:blocks
                - {name: vllm, loraSpec: ""}
            """
        ).engineMetrics
        #expect(engines.label == "my/engine" && engines.defaultEngine == "atom")
        var atom = EngineMetrics()
        atom.path = "/m"
        atom.queuedRequests = MetricSpec(name: "atom:waiting", labels: ["kind": "all"])
        atom.cacheInfo = MetricSpec(name: "atom:cache")
        atom.blockSizeLabel = "size"
        atom.blockCount = MetricSpec(name: "atom:blocks")
        #expect(engines.engines["atom"] == atom)
        var vllm = EngineMetrics.vllm
        vllm.path = "/m"
        vllm.lora = nil
        #expect(engines.engines["vllm"] == vllm)
        #expect(try load("plugins: []").engineMetrics == EngineMetricsTable())
    }

    @Test func theDeprecatedHandlerDisaggregates() throws {
        let scheduler = try load(
            """
            plugins:
            - {type: always-disagg-pd-decider}
            - type: pd-profile-handler
              parameters: {prefillProfile: p, deciderPluginName: always-disagg-pd-decider}
            schedulingProfiles: [{name: decode, plugins: []}, {name: p, plugins: []}]
            """
        ).scheduler
        #expect(scheduler.profiles.map(\.name) == ["decode", "p"])
        #expect(
            failure(
                "plugins: [{type: pd-profile-handler}]\n"
                    + "schedulingProfiles: [{name: decode, plugins: []}]\n"
            ).contains("needs a profile 'prefill'"))
    }

    @Test(arguments: [
        (
            "plugins:\n- type: vllmgrpc-parser\n",
            "r.yaml:4: plugins[0].type is not supported: 'vllmgrpc-parser' parses vLLM's gRPC API; "
                + "docs/plugins.md has what is"
        ),
        (
            "plugins:\n- type: dcgm-data-source\n",
            "r.yaml:4: plugins[0].type is not supported: 'dcgm-data-source' scrapes GPU exporters; "
                + "docs/plugins.md has what is"
        ),
        (
            "plugins:\n- type: lora-afinity-scorer\n",
            "r.yaml:4: plugins[0].type is no known plugin type: 'lora-afinity-scorer'; "
                + "did you mean 'lora-affinity-scorer'?"
        ),
        (
            "featureGates:\n- flowcontrol\n",
            "r.yaml:4: featureGates[0] is no known feature: 'flowcontrol'; "
                + "did you mean 'flowControl'?"
        ),
        (
            "featureGates:\n- flowControl=1\n",
            "r.yaml:4: featureGates[0] must be flowControl, flowControl=true or flowControl=false"
        ),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer: {sources: [{pluginRef: queue-scorer}]}\n",
            "r.yaml:4: dataLayer.sources[0].pluginRef names 'queue-scorer', "
                + "which is of no data layer"
        ),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer:\n  crossReplicaSyncInterval: 1s\n",
            "r.yaml:5: dataLayer.crossReplicaSyncInterval is not supported: replicas share the "
                + "index of precise-prefix-cache-producer; docs/plugins.md has what is"
        ),
        (
            "plugins:\n- {type: round-robin-fairness-policy}\nschedulingProfiles:\n"
                + "- {name: a, plugins: [{pluginRef: round-robin-fairness-policy}]}\n",
            "r.yaml:6: schedulingProfiles[0].plugins[0].pluginRef names "
                + "'round-robin-fairness-policy', which has no place here"
        ),
        (
            "plugins: [{type: queue-scorer}]\nrequestHandler:\n  parsers:\n"
                + "  - pluginRef: queue-scorer\n",
            "r.yaml:6: requestHandler.parsers[0].pluginRef names a plugin that is no parser"
        ),
        (
            "plugins: [{type: queue-scorer}]\nrequestHandler: {parsers: []}\n",
            "r.yaml:4: requestHandler.parsers must name a parser"
        ),
        (
            "plugins:\n- type: core-metrics-extractor\n  parameters:\n    defaultEngine: sglan\n",
            "r.yaml:6: plugins[0].parameters.defaultEngine is no engine that is known; "
                + "did you mean 'sglang'?"
        ),
        (
            "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n"
                + "    - {name: e, kvUsageSpec: '1a'}\n",
            "r.yaml:7: plugins[0].parameters.engineConfigs[0].kvUsageSpec must be a metric's name, "
                + "or name{label=value}"
        ),
    ])
    func errorsSayWhatAndWhere(body: String, expected: String) {
        #expect(failure(body) == expected)
    }
}
