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

extension Router {
    /// The priority of an objective that a request names; 0 if it names none.
    func priority(ofObjective name: String?) -> Int {
        guard let name else { return 0 }
        return withDesk { $0.traffic.priority(of: name) }
    }
}
