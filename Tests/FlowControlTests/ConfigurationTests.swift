import Configuration
import FlowControl
import Testing

@Suite struct ConfigurationTests {
    private func parse(_ text: String) throws(ConfigError) -> FlowControlConfiguration {
        try FlowControlConfiguration(
            parsing: try ConfigValue(parsing: text, file: "f"), lookup: standardPolicy)
    }

    private func policy(_ type: String, _ parameters: String) throws(ConfigError) -> FlowPolicy? {
        try ConfigValue(parsing: parameters, file: "f").section { (section) throws(ConfigError) in
            try FlowPolicy(type: type, parameters: &section)
        }
    }

    @Test func defaultsAreUpstreams() throws {
        let standard = try parse("{}")
        #expect(standard.defaultRequestTTL == .seconds(60))
        #expect(standard.noEndpointRequestTTL == nil)
        #expect(standard.defaultBand.maxRequests == 5000)
        #expect(standard.defaultBand.maxBytes == 1_000_000_000)
        #expect(standard.defaultBand.fairness == .globalStrict)
        #expect(standard.defaultBand.ordering == .firstComeFirstServed)
        #expect(standard.usageLimit == .fixed(threshold: 1))
        #expect(standard.detector is UtilizationDetector)
        #expect(!standard.enableEviction)
    }

    @Test func readsEverything() throws {
        let configuration = try parse(
            """
            maxBytes: 10Gi
            maxRequests: 20k
            defaultRequestTTL: 30s
            noEndpointRequestTTL: 5m
            defaultPriorityBand: {maxRequests: 100}
            defaultNegativePriorityBand: {maxBytes: 1M, fairnessPolicyRef: round-robin-fairness-policy}
            priorityBands:
            - {priority: 10, maxRequests: 1k, orderingPolicyRef: edf-ordering-policy}
            - {priority: -5, fairnessPolicyRef: program-aware-fairness}
            usageLimitPolicyPluginRef: soft-reflective-ceiling-policy
            saturationDetector: {pluginRef: concurrency-detector}
            enableEviction: true
            """)
        #expect(configuration.globalByteLimit == 10 << 30)
        #expect(configuration.globalRequestLimit == 20_000)
        #expect(configuration.defaultRequestTTL == .seconds(30))
        #expect(configuration.noEndpointRequestTTL == .seconds(300))
        #expect(configuration.defaultBand.maxRequests == 100)
        #expect(configuration.defaultNegativeBand.maxBytes == 1_000_000)
        #expect(configuration.defaultNegativeBand.fairness == .roundRobin)
        #expect(configuration.bands[10]?.maxRequests == 1000)
        #expect(configuration.bands[10]?.ordering == .earliestDeadlineFirst)
        #expect(configuration.bands[-5]?.fairness == .leastAttained(LeastAttainedService()))
        #expect(configuration.usageLimit == .softReflective)
        #expect(configuration.detector is ConcurrencyDetector)
        #expect(configuration.enableEviction)
    }

    @Test func theQueuesAreBoundedEvenIfNobodySaysSo() throws {
        #expect(try parse("{}").globalRequestLimit == 100_000)
        #expect(try parse("{}").globalByteLimit == 4_000_000_000)
        let large = try parse("priorityBands: [{priority: 1, maxBytes: 9G, maxRequests: 1M}]")
        #expect(large.globalByteLimit == 9_000_000_000)
        #expect(large.globalRequestLimit == 1_000_000)
    }

    @Test(arguments: [
        (
            "\ndefaultRequestTTl: 1s",
            "f:2: defaultRequestTTl is not known; did you mean 'defaultRequestTTL'?"
        ),
        (
            "priorityBands:\n- priority: 1\n  fairnessPolicyRef: round-robin-fairnes-policy",
            "f:3: priorityBands[0].fairnessPolicyRef names no plugin: "
                + "'round-robin-fairnes-policy'; did you mean 'round-robin-fairness-policy'?"
        ),
        (
            "priorityBands:\n- priority: 1\n- priority: 1",
            "f:3: priorityBands[1] declares priority 1 a second time"
        ),
        ("priorityBands: [{}]", "f:1: priorityBands[0] needs a 'priority'"),
        (
            "defaultPriorityBand:\n  orderingPolicyRef: round-robin-fairness-policy",
            "f:2: defaultPriorityBand.orderingPolicyRef names no ordering policy"
        ),
        (
            "saturationDetector: {pluginRef: fcfs-ordering-policy}",
            "f:1: saturationDetector.pluginRef names no saturation detector"
        ),
        ("maxBytes: 1x", "f:1: maxBytes must be a quantity such as 5000, 5k or 1Gi"),
        ("maxBytes: 0", "f:1: maxBytes must be at least 1, not 0"),
        ("defaultRequestTTL: 0s", "f:1: defaultRequestTTL must be more than nothing"),
        ("enableEviction: 3", "f:1: enableEviction must be true or false"),
    ])
    func mistakesAreNamedWithTheirPlace(text: String, error: String) {
        do {
            _ = try parse(text)
            Issue.record("'\(text)' was taken")
        } catch let problem {
            #expect(problem.description == error)
        }
    }

    @Test func policiesHaveParameters() throws {
        guard
            case .fairness(.leastAttained(let service)) = try policy(
                "program-aware-fairness", "{strategy: las, lasHalfLifeSeconds: 30}")
        else { throw ConfigError(file: "f", line: nil, problem: "no fairness policy") }
        #expect(service.halfLifeSeconds == 30)
        #expect(service.weightService == 0.8)
        guard
            case .usageLimit(let holdback) = try policy(
                "priority-holdback-policy", "{minCeiling: 0.4, maxCeiling: 0.9, domain: value}")
        else { throw ConfigError(file: "f", line: nil, problem: "no usage limit policy") }
        #expect(holdback == .holdback(min: 0.4, max: 0.9, byValue: true))
        guard
            case .usageLimit(let explicit) = try policy(
                "priority-holdback-policy", "{domain: explicit, ceilings: {10: 0.9, -1: 0.3}}")
        else { throw ConfigError(file: "f", line: nil, problem: "no usage limit policy") }
        #expect(explicit == .explicitHoldback([10: 0.9, -1: 0.3]))
        guard
            case .detector(let detector) = try policy(
                "utilization-detector", "{queueDepthThreshold: 9, headroom: 0.2}")
        else { throw ConfigError(file: "f", line: nil, problem: "no detector") }
        #expect((detector as? UtilizationDetector)?.queueDepthThreshold == 9)
        #expect(try policy("no-such-policy", "{}") == nil)
        #expect(throws: ConfigError.self) { try policy("priority-holdback-policy", "{}") }
        #expect(throws: ConfigError.self) {
            try policy("soft-reflective-ceiling-policy", "{x: 1}")
        }
        #expect(throws: ConfigError.self) {
            try policy(
                "priority-holdback-policy", "{domain: explicit, ceilings: {10: 0.3, -1: 0.9}}")
        }
    }

    @Test(arguments: [
        ("0", 0), ("5000", 5000), ("5k", 5000), ("1.5G", 1_500_000_000), ("2Ki", 2048),
        ("1e3", 1000), ("1500m", 2), ("1Gi", 1 << 30),
    ])
    func quantities(text: String, value: Int) {
        #expect(Int(quantity: text) == value)
    }

    @Test(arguments: ["", "k", "-1", "1 k", "1K", "0x10", "nan", "inf", "1e400", "1.2.3"])
    func noQuantities(text: String) {
        #expect(Int(quantity: text) == nil)
    }
}
