import Core
import ModelServers
import Scheduling

/// Picks the models that requests are sent for, by the rewrites of a pool's rules. Belongs to a
/// desk.
///
/// Exact rules go before generic ones, older rewrites before newer ones, and rules in their order.
/// A target that no engine lists is passed over as long as there is one that some engine lists, so
/// that a roll-out may start before its model is loaded everywhere.
struct ModelRewriter {
    /// What a rule made of a request.
    struct Decision: Equatable {
        /// The rewrite that the rule belongs to.
        var rewrite: String
        /// The model to ask an engine for.
        var target: String
    }

    /// A rule's place: the name of its rewrite, and its number there.
    private struct Place: Hashable {
        var rewrite: String
        var number: Int
    }

    private struct Rule {
        var place: Place
        /// The targets that get requests, with their weights.
        var targets: [(model: String, weight: UInt64)]
        var totalWeight: UInt64
        var position: UInt64
    }

    /// The golden ratio's fraction of 2^64. Steps of it spread evenly over the circle, whatever
    /// stretch of them is looked at (Weyl): the parts of the targets are right in the small, too.
    private static let step: UInt64 = 0x9e37_79b9_7f4a_7c15

    private var rules: [Rule] = []
    private var exact: [String: Int] = [:]
    private var generic: Int?
    private var random: RandomSource

    /// Without rules. The same seed makes the same choices.
    init(seed: UInt64) {
        random = RandomSource(seed: seed)
    }

    /// Takes over the rules of a pool. A rule that was there before goes on where it was.
    mutating func follow(_ snapshot: PoolSnapshot) {
        let positions = Dictionary(
            rules.map { ($0.place, $0.position) }, uniquingKeysWith: { first, _ in first })
        rules = []
        exact = [:]
        generic = nil
        let rewrites = snapshot.rules.rewrites.sorted {
            ($0.createdAt, $0.name) < ($1.createdAt, $1.name)
        }
        for rewrite in rewrites {
            for (number, rule) in rewrite.rules.enumerated() {
                let place = Place(rewrite: rewrite.name, number: number)
                add(
                    rule, at: place, position: positions[place] ?? random.next(),
                    isListed: snapshot.lists)
            }
        }
    }

    private mutating func add(
        _ rule: ModelRewrite.Rule, at place: Place, position: UInt64,
        isListed: (String) -> Bool
    ) {
        let isWeighted = rule.targets.contains { $0.weight != nil }
        var targets = isWeighted ? rule.targets.filter { $0.weight != nil } : rule.targets
        let listed = targets.filter { isListed($0.model) }
        if !listed.isEmpty { targets = listed }
        let index = rules.count
        rules.append(
            Rule(
                place: place,
                targets: targets.map { ($0.model, UInt64($0.weight ?? 1)) },
                totalWeight: targets.reduce(0) { $0 + UInt64($1.weight ?? 1) },
                position: position))
        for model in rule.models where exact[model] == nil { exact[model] = index }
        if rule.models.isEmpty, generic == nil { generic = index }
    }

    /// Whether every request for `model` has the same target, so that it can be told without
    /// taking a turn; the target is nil if no rule matches.
    func foresee(_ model: String?) -> (isCertain: Bool, target: String?) {
        guard let index = model.flatMap({ exact[$0] }) ?? generic else { return (true, nil) }
        let targets = rules[index].targets
        return (targets.count == 1, targets.first?.model)
    }

    /// What becomes of a request for `model`, nil if it names none; nil if no rule matches.
    mutating func decide(_ model: String?) -> Decision? {
        guard let index = model.flatMap({ exact[$0] }) ?? generic else { return nil }
        rules[index].position &+= Self.step
        let rule = rules[index]
        var rest = rule.position.multipliedFullWidth(by: rule.totalWeight).high
        for target in rule.targets {
            if rest < target.weight {
                return Decision(rewrite: rule.place.rewrite, target: target.model)
            }
            rest -= target.weight
        }
        return nil
    }
}

/// The model of a request.
struct ModelChoice: Equatable {
    /// What the client calls it; what it gets if it named none.
    var model: String
    /// What the engine is asked for.
    var target: String
    /// The model that the target is an adapter of.
    var base: String?
}

extension Router {
    /// Finds the model to send a request for: what a rule says, else what a header says, else what
    /// the client asked for.
    ///
    /// - Throws: 400 if there is none, 404 if no engine has it.
    func chooseModel(
        asked: String?, headers: any HeaderLookup
    ) throws(APIError) -> ModelChoice {
        try withDesk { (desk) throws(APIError) in
            let rewrite = desk.traffic.rewriter.decide(asked)
            let forced = rewrite?.target ?? headers.value(ofEither: RoutingHeaders.targetModel)
            guard let target = forced ?? asked else { throw .noModel }
            let model = asked ?? target
            try check(target, for: model, isForced: forced != nil, in: desk.snapshot)
            if let rewrite { metrics.rewrote(model, by: rewrite) }
            return ModelChoice(
                model: model, target: target, base: desk.snapshot.model(target)?.parent)
        }
    }

    /// The model that a request will be sent for, as far as can be told; nil if it cannot.
    func foreseeModel(asked: String?, headers: any HeaderLookup) -> String? {
        withDesk { desk in
            let rewrite = desk.traffic.rewriter.foresee(asked)
            guard rewrite.isCertain else { return nil }
            return rewrite.target ?? headers.value(ofEither: RoutingHeaders.targetModel) ?? asked
        }
    }

    private func check(
        _ target: String, for model: String, isForced: Bool, in snapshot: PoolSnapshot
    ) throws(APIError) {
        let configured = configuration.models
        // What clients may ask for says nothing of what the router asks for in their stead.
        if !configured.isEmpty, !isForced {
            if !configured.contains(target) { throw .unknownModel(model, known: configured) }
        } else if let known = snapshot.models, !snapshot.lists(target) {
            let aliases = snapshot.rules.rewrites.flatMap { $0.rules.flatMap(\.models) }
            throw .unknownModel(model, known: Set(known + aliases).sorted())
        }
    }
}
