#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What routers have in flight at an endpoint.
public struct InFlightLoad: Hashable, Sendable {
    /// Requests that have not ended.
    public var requests: Int
    /// Prompt tokens that are yet to be computed.
    public var prefillTokens: Int
    /// Tokens that are likely to be generated yet; 0 unless they are estimated.
    public var outputTokens: Int

    /// Makes a load; nothing by default.
    public init(requests: Int = 0, prefillTokens: Int = 0, outputTokens: Int = 0) {
        self.requests = requests
        self.prefillTokens = prefillTokens
        self.outputTokens = outputTokens
    }

    /// Nothing in flight.
    public static let none = InFlightLoad()

    /// Both together.
    public static func + (a: Self, b: Self) -> Self {
        Self(
            requests: a.requests + b.requests, prefillTokens: a.prefillTokens + b.prefillTokens,
            outputTokens: a.outputTokens + b.outputTokens)
    }

    /// The rest of `a` without `b`.
    public static func - (a: Self, b: Self) -> Self {
        Self(
            requests: a.requests - b.requests, prefillTokens: a.prefillTokens - b.prefillTokens,
            outputTokens: a.outputTokens - b.outputTokens)
    }
}

/// What a router has in flight at the endpoint of a name.
public struct EndpointInFlight: Hashable, Sendable {
    /// The endpoint's name, which is the same at every router.
    public var name: String
    /// What is there.
    public var load: InFlightLoad

    /// Makes one.
    public init(name: String, load: InFlightLoad) {
        self.name = name
        self.load = load
    }
}

/// The requests of one fairness id and priority.
public struct FlowID: Hashable, Sendable {
    /// Whose requests.
    public var fairnessID: String
    /// The band that they wait in.
    public var priority: Int

    /// Makes one.
    public init(fairnessID: String, priority: Int) {
        self.fairnessID = fairnessID
        self.priority = priority
    }
}

/// The service that a flow has got, as far as it is not forgotten yet.
public struct AttainedService: Hashable, Sendable {
    /// Whose.
    public var flow: FlowID
    /// Tokens, weighed, at a moment that goes without saying.
    public var tokens: Double
    /// The time after which half of it is forgotten, in seconds.
    public var halfLifeSeconds: Double

    /// Makes one.
    public init(flow: FlowID, tokens: Double, halfLifeSeconds: Double) {
        self.flow = flow
        self.tokens = tokens
        self.halfLifeSeconds = halfLifeSeconds
    }

    /// What is left of it after a time.
    public func aged(by age: Duration) -> Self {
        var aged = self
        aged.tokens = tokens * exp2(-age.seconds / halfLifeSeconds)
        return aged
    }
}
