public import Configuration

/// The section `flowControl` of an EndpointPickerConfig.
public struct FlowControlConfiguration: Sendable {
    /// Limits and policies of one priority.
    public struct Band: Sendable {
        /// Requests that may wait.
        public var maxRequests = 5000
        /// Bytes that they may hold.
        public var maxBytes = 1_000_000_000
        /// Which flow is next.
        public var fairness = FairnessPolicy.globalStrict
        /// Which request of a flow is next.
        public var ordering = OrderingPolicy.firstComeFirstServed

        /// The defaults.
        public init() {}
    }

    /// Requests that may wait in all bands; nil: see ``globalRequestLimit``.
    public var maxRequests: Int?
    /// Bytes that they may hold; nil: see ``globalByteLimit``.
    public var maxBytes: Int?
    /// How long a request may wait that does not say.
    public var defaultRequestTTL = Duration.seconds(60)
    /// The same for one that finds no endpoint when it comes; nil: no difference.
    public var noEndpointRequestTTL: Duration?
    /// The band of a priority from 0 up that is not configured.
    public var defaultBand = Band()
    /// The band of a priority below 0 that is not configured.
    public var defaultNegativeBand = Band()
    /// The configured bands by priority.
    public var bands: [Int: Band] = [:]
    /// At which saturation bands are closed.
    public var usageLimit = UsageLimitPolicy.fixed(threshold: 1)
    /// What says how full the pool is.
    public var detector: any SaturationDetector = UtilizationDetector()
    /// Whether requests of a priority below 0 may be stopped while they are served.
    public var enableEviction = false

    /// The defaults.
    public init() {}

    /// The most requests that ever wait. Unless it is configured, 100,000, or what the configured
    /// bands take together if that is more: what waits must not grow with the number of bands.
    public var globalRequestLimit: Int {
        maxRequests ?? bands.values.reduce(0) { $0.addingCapped($1.maxRequests) }.atLeast(100_000)
    }

    /// The most bytes that they ever hold. Unless it is configured, 4 GB, or what the configured
    /// bands take together if that is more.
    public var globalByteLimit: Int {
        maxBytes ?? bands.values.reduce(0) { $0.addingCapped($1.maxBytes) }.atLeast(4_000_000_000)
    }
}

extension Int {
    fileprivate func addingCapped(_ other: Int) -> Int {
        let (sum, overflow) = addingReportingOverflow(other)
        return overflow ? .max : sum
    }

    fileprivate func atLeast(_ other: Int) -> Int { Swift.max(self, other) }
}

// MARK: - Parsing

/// A policy or detector that a configuration declares among its plugins and refers to by name.
public enum FlowPolicy: Sendable {
    case fairness(FairnessPolicy)
    case ordering(OrderingPolicy)
    case usageLimit(UsageLimitPolicy)
    case detector(any SaturationDetector)

    /// The types that ``init(type:parameters:)`` makes.
    public static let types: [String] =
        [
            "global-strict-fairness-policy", "round-robin-fairness-policy",
            "program-aware-fairness", "static-usage-limit-policy", "priority-holdback-policy",
            "soft-reflective-ceiling-policy", UtilizationDetector.type, ConcurrencyDetector.type,
        ] + OrderingPolicy.allCases.map(\.rawValue)

    /// Makes the policy of a type from its parameters, whose names and defaults are upstream's;
    /// nil if there is no such type.
    public init?(type: String, parameters: inout ConfigSection) throws(ConfigError) {
        switch type {
        case "global-strict-fairness-policy": self = .fairness(.globalStrict)
        case "round-robin-fairness-policy": self = .fairness(.roundRobin)
        case "program-aware-fairness":
            self = .fairness(.leastAttained(try LeastAttainedService(parsing: &parameters)))
        case "static-usage-limit-policy":
            let threshold = try parameters.optional("threshold")?.number(in: 0...1) ?? 1
            self = .usageLimit(.fixed(threshold: threshold))
        case "priority-holdback-policy": self = .usageLimit(try .holdback(parsing: &parameters))
        case "soft-reflective-ceiling-policy": self = .usageLimit(.softReflective)
        case UtilizationDetector.type:
            self = .detector(try UtilizationDetector(parsing: &parameters))
        case ConcurrencyDetector.type:
            self = .detector(try ConcurrencyDetector(parsing: &parameters))
        default:
            guard let ordering = OrderingPolicy(rawValue: type) else { return nil }
            self = .ordering(ordering)
        }
    }
}

extension FlowControlConfiguration {
    /// Finds the policy that a value names, or that has a type's defaults. Throws if the value
    /// names none.
    public typealias Lookup = (ConfigValue) throws(ConfigError) -> FlowPolicy

    /// Reads the section. The names and defaults are upstream's; unknown keys are errors.
    public init(parsing value: ConfigValue, lookup: Lookup) throws(ConfigError) {
        self = try value.section { (section) throws(ConfigError) in
            try FlowControlConfiguration(&section, lookup)
        }
    }

    private init(
        _ section: inout ConfigSection, _ lookup: Lookup
    ) throws(ConfigError) {
        maxRequests = try section.optional("maxRequests")?.quantity(in: 1...Int.max)
        maxBytes = try section.optional("maxBytes")?.quantity(in: 1...Int.max)
        if let value = section.optional("defaultRequestTTL") {
            defaultRequestTTL = try value.positiveDuration()
        }
        noEndpointRequestTTL = try section.optional("noEndpointRequestTTL")?.positiveDuration()
        if let value = section.optional("defaultPriorityBand") {
            defaultBand = try value.section { (section) throws(ConfigError) in
                try Band(&section, lookup)
            }
        }
        if let value = section.optional("defaultNegativePriorityBand") {
            defaultNegativeBand = try value.section { (section) throws(ConfigError) in
                try Band(&section, lookup)
            }
        }
        for entry in try section.optional("priorityBands")?.list() ?? [] {
            let (priority, band) = try entry.section { (section) throws(ConfigError) in
                let priority = try section.required("priority").integer(
                    in: Int(Int32.min)...Int(Int32.max))
                return (priority, try Band(&section, lookup))
            }
            guard bands.updateValue(band, forKey: priority) == nil else {
                throw entry.error("declares priority \(priority) a second time")
            }
        }
        if let reference = section.optional("usageLimitPolicyPluginRef") {
            guard case .usageLimit(let policy) = try lookup(reference) else {
                throw reference.error("names no usage limit policy")
            }
            usageLimit = policy
        }
        if let value = section.optional("saturationDetector") {
            detector = try Self.detector(parsing: value, lookup: lookup)
        }
        if let value = section.optional("enableEviction") {
            enableEviction = try value.boolean()
        }
    }

    /// Reads `{pluginRef: …}` of a saturation detector.
    public static func detector(
        parsing value: ConfigValue, lookup: Lookup
    ) throws(ConfigError) -> any SaturationDetector {
        try value.section { (section) throws(ConfigError) in
            guard let reference = section.optional("pluginRef") else {
                return UtilizationDetector()
            }
            guard case .detector(let detector) = try lookup(reference) else {
                throw reference.error("names no saturation detector")
            }
            return detector
        }
    }
}

extension FlowControlConfiguration.Band {
    fileprivate init(
        _ section: inout ConfigSection, _ lookup: FlowControlConfiguration.Lookup
    ) throws(ConfigError) {
        if let value = section.optional("maxRequests") {
            maxRequests = try value.quantity(in: 1...Int.max)
        }
        if let value = section.optional("maxBytes") {
            maxBytes = try value.quantity(in: 1...Int.max)
        }
        if let reference = section.optional("fairnessPolicyRef") {
            guard case .fairness(let policy) = try lookup(reference) else {
                throw reference.error("names no fairness policy")
            }
            fairness = policy
        }
        if let reference = section.optional("orderingPolicyRef") {
            guard case .ordering(let policy) = try lookup(reference) else {
                throw reference.error("names no ordering policy")
            }
            ordering = policy
        }
    }
}

extension ConfigValue {
    fileprivate func positiveDuration() throws(ConfigError) -> Duration {
        let duration = try duration()
        guard duration > .zero else { throw error("must be more than nothing") }
        return duration
    }

    fileprivate func positive() throws(ConfigError) -> Double {
        try number(in: Double.leastNonzeroMagnitude...1e12)
    }
}

extension LeastAttainedService {
    fileprivate init(parsing section: inout ConfigSection) throws(ConfigError) {
        if let strategy = section.optional("strategy"), try strategy.string() != "las" {
            throw strategy.error("must be 'las'")
        }
        if let value = section.optional("lasWeightService") {
            weightService = try value.number(in: 0...1e6)
        }
        if let value = section.optional("lasWeightHeadWait") {
            weightHeadWait = try value.number(in: 0...1e6)
        }
        if let value = section.optional("lasHalfLifeSeconds") {
            halfLifeSeconds = try value.positive()
        }
    }
}

extension UsageLimitPolicy {
    fileprivate static func holdback(
        parsing section: inout ConfigSection
    ) throws(ConfigError) -> UsageLimitPolicy {
        let domain = try section.optional("domain")?.choice(of: HoldbackDomain.self) ?? .rank
        if domain == .explicit {
            var ceilings: [Int: Double] = [:]
            let value = try section.required("ceilings")
            for (key, text) in try value.strings() {
                guard let priority = Int(key), let ceiling = Double(text), 0...1 ~= ceiling else {
                    throw value.error("must have priorities with ceilings from 0 to 1")
                }
                ceilings[priority] = ceiling
            }
            let falling = ceilings.sorted { $0.key > $1.key }.map(\.value)
            guard zip(falling, falling.dropFirst()).allSatisfy({ $0 >= $1 }) else {
                throw value.error("must not rise as priorities fall")
            }
            return .explicitHoldback(ceilings)
        }
        if let shape = section.optional("shape"), try shape.string() != "linear" {
            throw shape.error("must be 'linear'")
        }
        let lowest = try section.required("minCeiling")
        let min = try lowest.number(in: 0...1)
        let max = try section.optional("maxCeiling")?.number(in: 0...1) ?? 1
        guard min < 1, min <= max, max > 0 else {
            throw lowest.error("must be below 1 and not above maxCeiling")
        }
        return .holdback(min: min, max: max, byValue: domain == .value)
    }
}

extension UtilizationDetector {
    fileprivate init(parsing section: inout ConfigSection) throws(ConfigError) {
        if let value = section.optional("queueDepthThreshold") {
            queueDepthThreshold = try value.integer(in: 1...1_000_000)
        }
        if let value = section.optional("kvCacheUtilThreshold") {
            kvCacheUtilThreshold = try value.number(in: 1e-6...1)
        }
        if let value = section.optional("metricsStalenessThreshold") {
            metricsStalenessThreshold = try value.positiveDuration()
        }
        if let value = section.optional("metricsHold") { metricsHold = try value.duration() }
        // What its filter goes by.
        _ = try section.optional("headroom")?.number(in: 0...1e6)
    }
}

extension ConcurrencyDetector {
    fileprivate init(parsing section: inout ConfigSection) throws(ConfigError) {
        if let value = section.optional("concurrencyMode") {
            mode = try value.choice(of: Mode.self)
        }
        if let value = section.optional("maxConcurrency") {
            maxConcurrency = try value.integer(in: 1...1_000_000_000)
        }
        if let value = section.optional("maxTokenConcurrency") {
            maxTokenConcurrency = try value.integer(in: 1...Int.max)
        }
        _ = try section.optional("headroom")?.number(in: 0...1e6)
    }
}
