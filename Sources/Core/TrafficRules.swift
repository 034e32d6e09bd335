/// A class of requests (InferenceObjective): those that name it have its priority.
public struct InferenceObjective: Hashable, Sendable {
    /// What requests say in `x-llm-d-inference-objective`.
    public var name: String
    /// More is served first; what is below 0 may be shed.
    public var priority: Int

    /// Makes an objective.
    public init(name: String, priority: Int) {
        self.name = name
        self.priority = priority
    }
}

/// Says which model requests are sent for that ask for another (InferenceModelRewrite).
public struct ModelRewrite: Hashable, Sendable {
    /// A model that requests are sent for.
    public struct Target: Hashable, Sendable {
        /// Its name, as engines list it.
        public var model: String
        /// Its part of the requests, 1 to 1,000,000, against the weights of its siblings. If none
        /// has a weight all get the same; beside siblings with a weight, one without gets nothing.
        public var weight: Int?

        /// Makes a target.
        public init(model: String, weight: Int? = nil) {
            self.model = model
            self.weight = weight
        }
    }

    /// What happens to some requests.
    public struct Rule: Hashable, Sendable {
        /// The models that the requests ask for; none: any, and requests that name no model.
        public var models: [String]
        /// What they are sent for; not empty.
        public var targets: [Target]

        /// Makes a rule.
        public init(models: [String], targets: [Target]) {
            self.models = models
            self.targets = targets
        }
    }

    /// Names the rewrite in metrics.
    public var name: String
    /// When it was made, in seconds of any clock: of two rewrites of a model the older counts.
    public var createdAt: Int
    /// Of two rules for a model the first counts.
    public var rules: [Rule]

    /// Makes a rewrite.
    public init(name: String, createdAt: Int, rules: [Rule]) {
        self.name = name
        self.createdAt = createdAt
        self.rules = rules
    }
}

/// What is said about requests, whoever says it: a file, or Kubernetes.
public struct TrafficRules: Hashable, Sendable {
    /// The objectives; names are unique.
    public var objectives: [InferenceObjective]
    /// The rewrites, in any order; names are unique.
    public var rewrites: [ModelRewrite]

    /// Makes rules; without any, all requests are equal and go for the model that they ask for.
    public init(objectives: [InferenceObjective] = [], rewrites: [ModelRewrite] = []) {
        self.objectives = objectives
        self.rewrites = rewrites
    }
}
