import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Testing

/// `disagg-profile-handler` with `stageOrder: joint`.
@Suite struct JointDisaggregationTests {
    /// An endpoint with the scores that it is to have.
    struct Node {
        var role: String
        var decode = 0.0
        var prefill = 0.0
        var host = ""
        var zone = ""
        var matched = 0
    }

    private func scheduler(
        _ transfer: String, decider: String = "always-disagg-pd-decider", limit: Int = 1,
        extra: String = "", registry: PluginRegistry = .standard
    ) throws -> Scheduler {
        var registry = registry
        registry.register("approx-prefix-cache-producer") { source in
            AttributeProducer(name: source.name)
        }
        let algorithm =
            "algorithm: {type: linear_higher_is_better, "
            + "normalization: {fixedRange: {min: 0, max: 1}}}"
        return try EndpointPickerConfig.scheduler(
            parsing: """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins:
                - type: disagg-profile-handler
                  parameters: {deciders: {prefill: decider}, stageOrder: joint, transfer: \(transfer)}
                - {type: \(decider), name: decider\(extra)}
                - {type: prefill-filter}
                - {type: decode-filter}
                - {type: max-score-picker, parameters: {maxNumOfEndpoints: \(limit)}}
                - type: endpoint-attribute-scorer
                  name: d
                  parameters: {attributeKey: d, \(algorithm)}
                - type: endpoint-attribute-scorer
                  name: p
                  parameters: {attributeKey: p, \(algorithm)}
                schedulingProfiles:
                - name: decode
                  plugins:
                  - {pluginRef: decode-filter}
                  - {pluginRef: d, weight: 2}
                  - {pluginRef: max-score-picker}
                - name: prefill
                  plugins: [{pluginRef: prefill-filter}, {pluginRef: p}, {pluginRef: max-score-picker}]
                """, file: "t.yaml", registry: registry)
    }

    private func cycle(
        _ nodes: [Node], promptTokens: Int = 1000, seed: UInt64 = 1, generation: Int? = nil
    ) -> SchedulingCycle {
        var pool = context(
            count: nodes.count,
            labels: nodes.map { node in
                var labels = ["llm-d.ai/role": node.role]
                if !node.host.isEmpty { labels["kubernetes.io/hostname"] = node.host }
                if !node.zone.isEmpty { labels["topology.kubernetes.io/zone"] = node.zone }
                return labels
            },
            loads: nodes.map { node in
                var load = ServerLoad()
                load.attributes = [
                    "d": node.decode, "p": node.prefill, "m": Double(node.matched),
                ]
                return load
            }, promptTokenCount: promptTokens)
        pool.poolGeneration = generation
        var cycle = SchedulingCycle(request: pool.request, seed: seed)
        cycle.context = pool
        cycle.eligible = Array(nodes.indices)
        return cycle
    }

    /// Two hosts with a decode and a prefill endpoint each, hosts of one zone.
    private static let hosts = [
        Node(role: "decode", decode: 0.5, host: "h0", zone: "z"),
        Node(role: "decode", decode: 0.5, host: "h1", zone: "z"),
        Node(role: "prefill", prefill: 0.5, host: "h0", zone: "z"),
        Node(role: "prefill", prefill: 0.5, host: "h1", zone: "z"),
    ]

    /// 1000 tokens of 131,072 bytes take 0.0026 s on a host, 0.0105 s in a zone, 0.105 s else.
    @Test(arguments: [
        // Equal pairs on two hosts: whichever it is, both are on one.
        ("{}", hosts, [[0, 2], [1, 3]]),
        // A better decode endpoint takes its neighbour along.
        ("{}", adjusted(hosts) { $0[1].decode = 0.6 }, [[1, 3]]),
        // A prefill endpoint that is better by 0.1 is worth 0.008 s more,
        (
            "{}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6
            }, [[1, 2]]
        ),
        // but not if a second costs 20,
        (
            "{costPerSecond: 20}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6
            }, [[1, 3]]
        ),
        // nor over the slowest link,
        (
            "{costPerSecond: 1}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6
                $0[0].zone = "y"; $0[2].zone = "y"
            }, [[1, 3]]
        ),
        // unless that is fast, or blocks are small, or nothing costs.
        (
            "{elseBytesPerSecond: 1e12}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6
                $0[0].zone = "y"; $0[2].zone = "y"
            }, [[1, 2]]
        ),
        (
            "{kvBytesPerToken: 1024}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6
                $0[0].zone = "y"; $0[2].zone = "y"
            }, [[1, 2]]
        ),
        (
            "{costPerSecond: 0}",
            adjusted(hosts) {
                $0[1].decode = 0.5001; $0[2].prefill = 0.5001
            }, [[1, 2]]
        ),
        // Links are those of the configuration, the nearest first.
        (
            "{links: [{label: topology.kubernetes.io/zone, bytesPerSecond: 1e6}]}",
            adjusted(hosts) { $0[3].zone = "y" }, [[0, 3], [1, 3]]
        ),
        // What the decode endpoint holds does not move: 960 of 1000 tokens.
        (
            "{costPerSecond: 20}",
            adjusted(hosts) {
                $0[1].decode = 0.6; $0[2].prefill = 0.6; $0[1].matched = 60
            },
            [[1, 2]]
        ),
    ])
    func pairs(transfer: String, nodes: [Node], expected: [[Int]]) throws {
        let scheduler = try scheduler(transfer)
        for seed in 0..<10 as Range<UInt64> {
            var cycle = cycle(nodes, seed: seed)
            let result = try scheduler.schedule(&cycle)
            let pair = [result.primary[0].index, result.prefill.first?.index ?? -1]
            #expect(expected.contains(pair), "\(pair), seed \(seed)")
        }
    }

    private static func adjusted(_ nodes: [Node], _ change: (inout [Node]) -> Void) -> [Node] {
        var nodes = nodes
        change(&nodes)
        return nodes
    }

    /// An endpoint that takes both parts moves nothing, and is then no prefiller.
    @Test func anEndpointMayComputeItsPromptItself() throws {
        var nodes = Self.hosts
        nodes.append(Node(role: "both", decode: 0.5, prefill: 0.5, host: "h0"))
        let scheduler = try scheduler("{}")
        var cycle = cycle(nodes)
        let result = try scheduler.schedule(&cycle)
        #expect(result.primary.map(\.index) == [4])
        #expect(result.prefill.isEmpty)
    }

    @Test func theDeciderIsAskedFirst() throws {
        let extra = ", parameters: {nonCachedTokens: 500}"
        let scheduler = try scheduler("{}", decider: "prefix-based-pd-decider", extra: extra)
        var nodes = Self.hosts
        nodes[0].matched = 60
        // 1 is best by itself and lacks the prompt; 0, which holds it, is not disaggregated.
        nodes[1].decode = 0.6
        nodes[2].prefill = 1
        var cold = cycle(nodes)
        let split = try scheduler.schedule(&cold)
        #expect(split.primary[0].index == 1 && split.prefill.first?.index == 2)
        // 0 is best by itself and holds it.
        nodes[0].decode = 0.7
        var warm = cycle(nodes)
        let alone = try scheduler.schedule(&warm)
        #expect(alone.primary[0].index == 0 && alone.prefill.isEmpty)
        // Nobody prefills.
        var none = cycle(Array(Self.hosts[..<2]))
        #expect(try scheduler.schedule(&none).prefill.isEmpty)
    }

    /// Whatever the scores, labels and costs: no pair is better than the one that was picked.
    @Test func noPairIsBetter() throws {
        let seed = UInt64.random(in: 0 ... .max)
        print("JointDisaggregationTests seed \(seed)")
        var random = RandomSource(seed: seed)
        for round in 0..<40 {
            let perSecond = Double.random(in: 0...20, using: &random)
            let scheduler = try scheduler("{costPerSecond: \(perSecond)}", limit: 64)
            for generation in 0..<20 {
                let nodes = (0..<Int.random(in: 2...12, using: &random)).map { _ in
                    Node(
                        role: ["decode", "prefill", "both"].randomElement(using: &random) ?? "",
                        decode: Double.random(in: 0...1, using: &random),
                        prefill: Double.random(in: 0...1, using: &random),
                        host: ["", "h0", "h1", "h2"].randomElement(using: &random) ?? "",
                        zone: ["", "z0", "z1"].randomElement(using: &random) ?? "",
                        matched: Int.random(in: 0...60, using: &random))
                }
                var cycle = cycle(nodes, generation: 100 * round + generation)
                let hint: Comment = "seed \(seed), round \(round), \(nodes)"
                guard let result = try? scheduler.schedule(&cycle) else {
                    #expect(!nodes.contains { $0.role != "prefill" }, hint)
                    continue
                }
                check(result, nodes, perSecond, hint)
            }
        }
    }

    private func check(
        _ result: SchedulingResult, _ nodes: [Node], _ perSecond: Double, _ hint: Comment
    ) {
        func value(_ d: Int, _ p: Int) -> Double {
            let (left, right) = (nodes[d], nodes[p])
            let bandwidth =
                if !left.host.isEmpty, left.host == right.host {
                    50e9
                } else if !left.zone.isEmpty, left.zone == right.zone { 12.5e9 } else { 1.25e9 }
            let bytes = 131_072 * Double(1000 - 16 * left.matched)
            let cost = d == p ? 0 : perSecond * bytes / bandwidth
            return 2 * left.decode + right.prefill - cost
        }
        let decoders = nodes.indices.filter { nodes[$0].role != "prefill" }
        let prefillers = nodes.indices.filter { nodes[$0].role != "decode" }
        let picked = result.primary[0].index
        guard !prefillers.isEmpty else {
            #expect(nodes[picked].decode == decoders.map { nodes[$0].decode }.max(), hint)
            return
        }
        let best = decoders.flatMap { d in prefillers.map { p in value(d, p) } }.max() ?? 0
        let prefill = result.prefill.first?.index ?? picked
        // The picked endpoint itself may have been the best to prefill.
        let pair = max(
            value(picked, prefill), prefillers.contains(picked) ? value(picked, picked) : -1e9)
        #expect(abs(pair - best) < 1e-9, hint)
        // Fallbacks are ranked by their best pairs, and for the pick that was made.
        let ranked = result.primary.map { d in prefillers.map { value(d.index, $0) }.max() ?? 0 }
        #expect(zip(ranked, ranked.dropFirst()).allSatisfy { $0 >= $1 }, hint)
        let helpers = result.prefill.map { value(picked, $0.index) }
        #expect(zip(helpers, helpers.dropFirst()).allSatisfy { $0 >= $1 }, hint)
        #expect(Set(result.prefill.map(\.index)) == Set(prefillers).subtracting([picked]), hint)
    }

    /// What is measured counts before what labels say.
    @Test func bandwidthsMayBeMeasured() throws {
        var registry = PluginRegistry.standard
        registry.register("meter") { source in Meter(name: source.name) }
        let scheduler = try scheduler(
            "{linkBandwidthsName: meter}", extra: "}\n- {type: meter", registry: registry)
        for seed in 0..<10 as Range<UInt64> {
            var cycle = cycle(Self.hosts, seed: seed)
            let result = try scheduler.schedule(&cycle)
            #expect(result.primary[0].index == 1 && result.prefill.first?.index == 2)
        }
    }

    @Test(arguments: [
        ("{kvBytesPerToken: 0}", "transfer.kvBytesPerToken must be from"),
        ("{links: [{label: a}]}", "needs a 'bytesPerSecond'"),
        (
            "{links: [{label: a, bytesPerSecond: 1}, {label: a, bytesPerSecond: 2}]}",
            "a second time"
        ),
        ("{bandwidth: 1}", "transfer.bandwidth is not known"),
        ("{linkBandwidthsName: decider}", "which is no plugin that measures bandwidths"),
    ])
    func wrongParametersAreErrors(_ transfer: String, _ part: String) {
        #expect { try scheduler(transfer) } throws: { error in
            (error as? ConfigError)?.line == 5 && "\(error)".contains(part)
        }
    }

    @Test func costsNeedPairsAndPairsADecider() {
        #expect {
            try plugin(
                "disagg-profile-handler", "{transfer: {}}", as: DisaggProfileHandler.self)
        } throws: { "\($0)".contains("counts only where stageOrder is joint") }
        #expect {
            try plugin(
                "disagg-profile-handler", "{stageOrder: joint}", as: DisaggProfileHandler.self)
        } throws: { "\($0)".contains("needs deciders.prefill") }
    }
}

/// Finds the match that the attribute `m` tells.
private final class AttributeProducer: DataProducer {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }

    func produce(into context: inout SchedulingContext) {
        let matched = context.loads.map { Int($0.attributes["m"] ?? 0) }
        context.match(matched, of: context.request.promptTokenCount / 16)
    }
}

/// Only from endpoint 2 to endpoint 1 blocks move fast, other links are known or not.
private final class Meter: LinkBandwidths {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }

    func bytesPerSecond(
        from source: Int, to destination: Int, in context: SchedulingContext
    ) -> Double? {
        if source == 2, destination == 1 { return 1e12 }
        return source == 3 ? 1e8 : nil
    }
}
