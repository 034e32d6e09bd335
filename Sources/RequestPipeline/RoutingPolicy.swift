/// The configurations that come with llmd, for `--policy`.
public enum RoutingPolicy: String, CaseIterable, Sendable {
    /// To the endpoint that holds most of the prompt's KV cache and is not busy.
    case precise
    /// To the least loaded endpoint.
    case load
    /// To each endpoint in its turn.
    case roundRobin = "round-robin"
    /// To any endpoint.
    case random

    /// An `EndpointPickerConfig`.
    ///
    /// `precise` has a prompt computed by a prefill endpoint if at least 16 of its tokens are not
    /// cached where it is decoded; the others, which know nothing of caches, have every prompt.
    /// Without prefill endpoints all prompts are computed where they are decoded.
    public var configuration: String {
        let producer = "prefixMatchInfoProducerName: precise-prefix-cache-producer"
        let decodeScorers: [(name: String, weight: Int)]
        let prefillScorers: [(name: String, weight: Int)]
        switch self {
        case .precise:
            decodeScorers = [
                ("prefix-cache-scorer", 3), ("active-request-scorer", 2), ("queue-scorer", 1),
                ("kv-cache-utilization-scorer", 1),
            ]
            prefillScorers = [("prefix-cache-scorer", 1), ("prefill-cost-scorer", 1)]
        case .load:
            decodeScorers = [
                ("active-request-scorer", 2), ("queue-scorer", 2),
                ("kv-cache-utilization-scorer", 2),
            ]
            prefillScorers = decodeScorers
        case .roundRobin, .random:
            decodeScorers = []
            prefillScorers = []
        }
        let scorers = Set((decodeScorers + prefillScorers).map(\.name)).sorted()
        let (picker, decider) =
            switch self {
            case .precise: ("max-score-picker", "prefix-based-pd-decider")
            case .load: ("max-score-picker", "always-disagg-pd-decider")
            case .roundRobin: ("round-robin-picker", "always-disagg-pd-decider")
            case .random: ("random-picker", "always-disagg-pd-decider")
            }

        var lines = ["apiVersion: llm-d.ai/v1alpha1", "kind: EndpointPickerConfig", "plugins:"]
        if self == .precise {
            lines.append("- type: precise-prefix-cache-producer")
            lines.append("  parameters: {speculativeIndexing: true}")
        }
        for scorer in scorers {
            lines.append("- type: \(scorer)")
            if scorer.hasPrefix("prefi") { lines.append("  parameters: {\(producer)}") }
        }
        lines.append("- type: \(decider)")
        if self == .precise { lines.append("  parameters: {nonCachedTokens: 16, \(producer)}") }
        lines += [
            "- type: disagg-profile-handler", "  parameters: {deciders: {prefill: \(decider)}}",
        ]
        // A picker for each stage: they must not take turns from each other. The second prefill
        // endpoint is for the sidecar, should the first fail.
        for (stage, count) in [("decode", 1), ("prefill", 2)] {
            lines += [
                "- type: \(stage)-filter", "- type: \(picker)", "  name: \(stage)-picker",
                "  parameters: {maxNumOfEndpoints: \(count)}",
            ]
        }
        lines.append("schedulingProfiles:")
        for (stage, scorers) in [("decode", decodeScorers), ("prefill", prefillScorers)] {
            lines += ["- name: \(stage)", "  plugins:", "  - pluginRef: \(stage)-filter"]
            for scorer in scorers {
                lines.append("  - {pluginRef: \(scorer.name), weight: \(scorer.weight)}")
            }
            lines.append("  - pluginRef: \(stage)-picker")
        }
        return lines.joined(separator: "\n") + "\n"
    }
}
