/// The configurations that come with llmd, for `--policy`.
public enum RoutingPolicy: String, CaseIterable, Sendable {
    /// To the endpoint that holds most of the prompt's KV cache and is not busy.
    case precise
    /// As precise, but what endpoints hold is guessed from where prompts were sent.
    case approx
    /// To the endpoint that had the session's last request, else to the least loaded one. Sessions
    /// are told by the header `x-session-id`.
    case session
    /// To the least loaded endpoint.
    case load
    /// To each endpoint in its turn.
    case roundRobin = "round-robin"
    /// To any endpoint.
    case random

    /// An `EndpointPickerConfig`.
    ///
    /// `precise` and `approx` have a prompt computed by a prefill endpoint if at least 16 of its
    /// tokens are not cached where it is decoded; the others, which know nothing of caches, have
    /// every prompt. Without prefill endpoints all prompts are computed where they are decoded.
    public var configuration: String { configuration(sharing: nil) }

    /// The same for one of several routers that tell each other what their index knows. Policies
    /// without an index have nothing to tell.
    ///
    /// - Parameters:
    ///   - listen: Where the others connect to, as `replicaConfig` has it.
    ///   - peers: All routers. This one may be among them.
    ///   - sharesLoad: Whether they tell each other what they have in flight, too.
    public func configuration(
        listen: String, peers: [String], sharesLoad: Bool = true
    ) -> String {
        let list = peers.map { "\"\($0)\"" }.joined(separator: ", ")
        return configuration(
            sharing: "{listen: \"\(listen)\", peers: [\(list)], shareLoad: \(sharesLoad)}")
    }

    private func configuration(sharing: String?) -> String {
        let decider = producer == nil ? "always-disagg-pd-decider" : "prefix-based-pd-decider"
        var lines = ["apiVersion: llm-d.ai/v1alpha1", "kind: EndpointPickerConfig", "plugins:"]
        if let producer {
            lines.append("- type: \(producer)")
            if self == .precise {
                lines += ["  parameters:", "    speculativeIndexing: true"]
                if let sharing {
                    lines.append(
                        "    indexerConfig: {kvBlockIndexConfig: {replicaConfig: \(sharing)}}")
                }
            }
        }
        let scorers = Set((decodeScorers + prefillScorers).map(\.name)).sorted()
        for scorer in scorers where scorer != Self.sessionScorer {
            lines.append("- type: \(scorer)")
            if scorer.hasPrefix("prefi") { lines.append("  parameters: {\(producerReference)}") }
        }
        lines.append("- type: \(decider)")
        if producer != nil {
            lines.append("  parameters: {nonCachedTokens: 16, \(producerReference)}")
        }
        lines += [
            "- type: disagg-profile-handler", "  parameters: {deciders: {prefill: \(decider)}}",
        ]
        // A picker and a memory of sessions for each stage: they must not take turns from each
        // other. The second prefill endpoint is for the sidecar, should the first fail.
        for (stage, count) in [("decode", 1), ("prefill", 2)] {
            lines += [
                "- type: \(stage)-filter", "- type: \(picker)", "  name: \(stage)-picker",
                "  parameters: {maxNumOfEndpoints: \(count)}",
            ]
            guard self == .session else { continue }
            lines += [
                "- type: \(Self.sessionScorer)", "  name: \(stage)-\(Self.sessionScorer)",
                "  parameters: {strategy: session_id, profileName: \(stage)}",
            ]
        }
        lines.append("schedulingProfiles:")
        for (stage, scorers) in [("decode", decodeScorers), ("prefill", prefillScorers)] {
            lines += ["- name: \(stage)", "  plugins:", "  - pluginRef: \(stage)-filter"]
            for (name, weight) in scorers {
                let name = name == Self.sessionScorer ? "\(stage)-\(name)" : name
                lines.append("  - {pluginRef: \(name), weight: \(weight)}")
            }
            lines.append("  - pluginRef: \(stage)-picker")
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private typealias WeightedScorer = (name: String, weight: Int)

    private static let sessionScorer = "session-affinity-scorer"

    /// What finds out which endpoint holds how much of a prompt.
    private var producer: String? {
        switch self {
        case .precise: "precise-prefix-cache-producer"
        case .approx: "approx-prefix-cache-producer"
        case .session, .load, .roundRobin, .random: nil
        }
    }

    private var producerReference: String {
        "prefixMatchInfoProducerName: \(producer ?? "")"
    }

    private var picker: String {
        switch self {
        case .precise, .approx, .session, .load: "max-score-picker"
        case .roundRobin: "round-robin-picker"
        case .random: "random-picker"
        }
    }

    private static let loadScorers: [WeightedScorer] = [
        ("active-request-scorer", 2), ("queue-scorer", 2), ("kv-cache-utilization-scorer", 2),
    ]

    private var decodeScorers: [WeightedScorer] {
        switch self {
        case .precise, .approx:
            [
                ("prefix-cache-scorer", 3), ("active-request-scorer", 2), ("queue-scorer", 1),
                ("kv-cache-utilization-scorer", 1),
            ]
        // More than all of the load: a session stays where it is.
        case .session: [(Self.sessionScorer, 10)] + Self.loadScorers
        case .load: Self.loadScorers
        case .roundRobin, .random: []
        }
    }

    private var prefillScorers: [WeightedScorer] {
        switch self {
        case .precise, .approx: [("prefix-cache-scorer", 2), ("prefill-cost-scorer", 1)]
        case .session, .load, .roundRobin, .random: decodeScorers
        }
    }
}
