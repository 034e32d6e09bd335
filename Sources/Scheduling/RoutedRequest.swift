public import Core

/// What is kept of a request and the decision about it until its response has ended.
public struct RoutedRequest: Sendable {
    /// The request id.
    public var id: String
    /// The model that the endpoint was asked for.
    public var targetModel: String
    /// The flow that the request belongs to.
    public var fairnessID: String
    /// The request's priority.
    public var priority: Int
    /// The tokens of the prompt.
    public var promptTokenCount: Int
    /// Where the request was sent.
    public var endpoint: Endpoint
    /// Who computes the prompt, if another endpoint does, and the profile that picked it.
    public var prefill: Endpoint?
    /// The name of that profile.
    public var prefillProfile: String
    /// Whether the response comes token by token.
    public var isStreaming: Bool
    /// The status of the response; nil before its head.
    public var status: Int?
    /// When the first byte of the response's body came; nil before.
    public var firstByteAt: MonotonicTime?
    /// When the response was complete; nil if it is not, or never will be.
    public var completedAt: MonotonicTime?

    /// Keeps what a response may be asked for.
    public init(
        _ request: SchedulingRequest, _ result: SchedulingResult, endpoints: [Endpoint]
    ) {
        id = request.id
        targetModel = request.targetModel
        fairnessID = request.fairnessID
        priority = request.priority
        promptTokenCount = request.promptTokenCount
        endpoint = endpoints[result.primary[0].index]
        prefill = result.prefill.first.map { endpoints[$0.index] }
        prefillProfile = result.prefillProfile
        isStreaming = request.details.isStreaming
    }

    /// Who was picked by a profile, or where the request was sent if `profile` is nil or the
    /// primary one's.
    public func endpoint(ofProfile profile: String?) -> Endpoint? {
        profile == prefillProfile ? prefill : endpoint
    }
}

/// The head of a response.
public struct ResponseHead: Sendable {
    /// The HTTP status.
    public var status: Int
    /// Who answered: a fallback, if the data plane went on to one.
    public var server: Endpoint

    /// Makes a head.
    public init(status: Int, server: Endpoint) {
        self.status = status
        self.server = server
    }
}

/// What a response says of its tokens.
public struct TokenUsage: Equatable, Sendable {
    /// Tokens of the prompt.
    public var promptTokens: Int?
    /// Tokens generated.
    public var completionTokens: Int?
    /// Tokens of the prompt that were cached.
    public var cachedTokens: Int?

    /// Makes a usage.
    public init(promptTokens: Int?, completionTokens: Int?, cachedTokens: Int?) {
        self.promptTokens = promptTokens
        self.completionTokens = completionTokens
        self.cachedTokens = cachedTokens
    }
}
