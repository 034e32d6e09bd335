import Configuration
import Core

/// Objectives and rewrites as a discovery file has them beside its endpoints: the `spec` of the
/// custom resources of these names, each with its `name`.
///
///     objectives:
///     - {name: interactive, priority: 10}
///     modelRewrites:
///     - name: reviews
///       rules:
///       - matches: [{model: {type: Exact, value: reviews}}]  # none: every model
///         targets:
///         - {modelRewrite: reviews-v1, weight: 90}
///         - {modelRewrite: reviews-v2, weight: 10}
///
/// Of two rewrites the one that stands first is the older.
extension TrafficRules {
    init(reading section: inout ConfigSection) throws(ConfigError) {
        self.init()
        for entry in try section.optional("objectives")?.list() ?? [] {
            let objective = try Self.objective(entry)
            guard !objectives.contains(where: { $0.name == objective.name }) else {
                throw entry.error("has the name of an objective before it")
            }
            objectives.append(objective)
        }
        for entry in try section.optional("modelRewrites")?.list() ?? [] {
            let rewrite = try Self.rewrite(entry, at: rewrites.count)
            guard !rewrites.contains(where: { $0.name == rewrite.name }) else {
                throw entry.error("has the name of a rewrite before it")
            }
            rewrites.append(rewrite)
        }
    }

    private static func objective(_ entry: ConfigValue) throws(ConfigError) -> InferenceObjective {
        try entry.section { (section) throws(ConfigError) in
            InferenceObjective(
                name: try section.required("name").name(),
                priority: try section.optional("priority")?
                    .integer(in: Int(Int32.min)...Int(Int32.max)) ?? 0)
        }
    }

    private static func rewrite(
        _ entry: ConfigValue, at place: Int
    ) throws(ConfigError) -> ModelRewrite {
        try entry.section { (section) throws(ConfigError) in
            var rules: [ModelRewrite.Rule] = []
            let name = try section.required("name").name()
            let list = try section.required("rules")
            for rule in try list.list() { rules.append(try Self.rule(rule)) }
            guard !rules.isEmpty else { throw list.error("must have a rule") }
            return ModelRewrite(name: name, createdAt: place, rules: rules)
        }
    }

    private static func rule(_ entry: ConfigValue) throws(ConfigError) -> ModelRewrite.Rule {
        try entry.section { (section) throws(ConfigError) in
            var models: [String] = []
            for match in try section.optional("matches")?.list() ?? [] {
                models.append(try Self.match(match))
            }
            var targets: [ModelRewrite.Target] = []
            let list = try section.required("targets")
            for target in try list.list() {
                targets.append(
                    try target.section { (section) throws(ConfigError) in
                        ModelRewrite.Target(
                            model: try section.required("modelRewrite").name(),
                            weight: try section.optional("weight")?.integer(in: 1...1_000_000))
                    })
            }
            guard !targets.isEmpty else { throw list.error("must have a target") }
            return ModelRewrite.Rule(models: models, targets: targets)
        }
    }

    private static func match(_ entry: ConfigValue) throws(ConfigError) -> String {
        try entry.section { (section) throws(ConfigError) in
            try section.required("model").section { (section) throws(ConfigError) in
                if let type = section.optional("type"), try type.string() != "Exact" {
                    throw type.error("must be Exact")
                }
                return try section.required("value").name()
            }
        }
    }
}

extension ConfigValue {
    /// A text that is not empty.
    fileprivate func name() throws(ConfigError) -> String {
        let text = try string()
        guard !text.isEmpty else { throw error("must not be empty") }
        return text
    }
}
