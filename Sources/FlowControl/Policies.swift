/// Which flow of a band is served next.
public enum FairnessPolicy: Equatable, Sendable {
    /// `global-strict-fairness-policy`: whichever has the first request by the band's order.
    case globalStrict
    /// `round-robin-fairness-policy`: each in its turn.
    case roundRobin
    /// `program-aware-fairness`: the one that got the least service.
    case leastAttained(LeastAttainedService)
}

/// The strategy `las`. A flow's score is
/// weightService * (1 - service / greatest) + weightHeadWait * (age of its first / greatest age),
/// over the flows that wait; the highest is served.
public struct LeastAttainedService: Equatable, Sendable {
    /// The weight of the service that was not got.
    public var weightService = 0.8
    /// The weight of the age of the first request in the flow's queue.
    public var weightHeadWait = 0.2
    /// The time after which half of the service is forgotten, in seconds.
    public var halfLifeSeconds = 60.0

    /// The defaults.
    public init() {}

    /// What a request costs: an output token as much as two of the prompt.
    public static func service(inputTokens: Int, outputTokens: Int) -> Double {
        Double(inputTokens) + 2 * Double(outputTokens)
    }
}

/// Which request of a flow is served next.
public enum OrderingPolicy: String, CaseIterable, Sendable {
    /// The one that has waited longest.
    case firstComeFirstServed = "fcfs-ordering-policy"
    /// The one whose time to live ends first.
    case earliestDeadlineFirst = "edf-ordering-policy"
    /// The one whose first token is due first; those without an objective come last.
    case sloDeadline = "slo-deadline-ordering-policy"
}

/// At which saturation the bands stop to be served.
public enum UsageLimitPolicy: Equatable, Sendable {
    /// How `priority-holdback-policy` spreads its ceilings.
    public enum HoldbackDomain: String, CaseIterable, Sendable {
        /// By rank, in equal steps.
        case rank
        /// In proportion to the priorities.
        case value
        /// As written.
        case explicit
    }

    /// `static-usage-limit-policy`: all at one.
    case fixed(threshold: Double)
    /// `priority-holdback-policy`: the lower the earlier, from `max` for the highest to `min` for
    /// the lowest.
    case holdback(min: Double, max: Double, byValue: Bool)
    /// `priority-holdback-policy` with a ceiling by priority; a band without one is closed.
    case explicitHoldback([Int: Double])
    /// `soft-reflective-ceiling-policy`: 1 - rank * saturation / (bands - 1). Past it a band is
    /// open once in round(saturation / (1 - saturation)) times, from 1 on never.
    case softReflective

    /// The ceiling of the band at `rank`, counted from the highest priority, of `count` bands.
    package func ceiling(
        rank: Int, priority: Int, count: Int, highest: Int, lowest: Int, saturation: Double
    ) -> Double {
        switch self {
        case .fixed(let threshold): return threshold
        case .explicitHoldback(let ceilings): return ceilings[priority] ?? 0
        case .softReflective:
            return count < 2 ? 1 : 1 - Double(rank) * saturation / Double(count - 1)
        case .holdback(let min, let max, let byValue):
            guard count > 1 else { return max }
            let share =
                byValue
                ? Double(highest - priority) / Double(highest - lowest)
                : Double(rank) / Double(count - 1)
            return max - share * (max - min)
        }
    }
}
