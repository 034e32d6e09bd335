import Core
import ModelServers

/// What a desk makes of a pool's rules. Belongs to the desk.
struct TrafficDesk {
    /// Picks models.
    var rewriter: ModelRewriter
    private var priorities: [String: Int] = [:]
    private var generation = -1

    /// Knows no rules. The same seed makes the same choices.
    init(seed: UInt64) {
        rewriter = ModelRewriter(seed: seed)
    }

    /// Takes over the rules of a pool if they may have changed.
    mutating func follow(_ snapshot: PoolSnapshot) {
        guard snapshot.generation != generation else { return }
        generation = snapshot.generation
        rewriter.follow(snapshot)
        priorities = [:]
        for objective in snapshot.rules.objectives {
            priorities[objective.name] = objective.priority
        }
    }

    /// The priority of an objective; 0 for one that nobody has heard of.
    func priority(of objective: String) -> Int { priorities[objective] ?? 0 }
}

/// Whom a request belongs to, and how soon it is to be served.
struct TrafficClass: Hashable {
    /// By the request's objective.
    var priority = 0
    /// Names the tenant, session or program that the request belongs to.
    var fairnessID = "default-flow"
}

extension Router {
    private static let objectiveHeaders = [
        "x-llm-d-inference-objective", "x-gateway-inference-objective",
    ]
    private static let fairnessHeaders = [
        "x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id",
    ]

    /// Reads the class of a request from its headers.
    func trafficClass(_ headers: any HeaderLookup) -> TrafficClass {
        var traffic = TrafficClass()
        if let id = headers.firstValue(of: Self.fairnessHeaders) { traffic.fairnessID = id }
        if let objective = headers.firstValue(of: Self.objectiveHeaders) {
            traffic.priority = withDesk { $0.traffic.priority(of: objective) }
        }
        return traffic
    }
}

extension HeaderLookup {
    /// The value of the first of some headers that has one; empty counts as none.
    func firstValue(of names: [String]) -> String? {
        names.lazy.compactMap { value(ofHeader: $0) }.first { !$0.isEmpty }
    }
}
