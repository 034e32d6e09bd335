public import Core

/// A request as flow control sees it.
public struct FlowRequest: Sendable {
    /// Names the tenant, session or program that the request belongs to; with the priority it
    /// names the flow.
    public var fairnessID: String
    /// The band; higher is served first, and what is below 0 may be shed.
    public var priority: Int
    /// The memory that it holds while it waits.
    public var byteSize: Int
    /// Tokens of the prompt, estimated; what the flow is charged until the true number is known.
    public var promptTokenCount: Int
    /// When its head came.
    public var receivedAt: MonotonicTime
    /// How long it may wait; nil: as configured.
    public var timeToLive: Duration?
    /// When its first token is wanted, counted from `receivedAt`; nil: whenever.
    public var ttftObjective: Duration?

    /// Makes a request.
    public init(
        fairnessID: String = "default-flow", priority: Int = 0, byteSize: Int = 0,
        promptTokenCount: Int = 0, receivedAt: MonotonicTime, timeToLive: Duration? = nil,
        ttftObjective: Duration? = nil
    ) {
        self.fairnessID = fairnessID
        self.priority = priority
        self.byteSize = byteSize
        self.promptTokenCount = promptTokenCount
        self.receivedAt = receivedAt
        self.timeToLive = timeToLive
        self.ttftObjective = ttftObjective
    }
}

/// A request that ``FlowQueues`` has taken, until it left.
public struct FlowRequestID: Hashable, Sendable {
    /// The index of its place; places are used again. For arrays beside the queues.
    public let slot: Int32
    /// Tells the users of a place apart.
    let generation: UInt32
}

/// What becomes of a request that arrives.
public enum FlowArrival: Equatable, Sendable {
    /// It goes on at once; ``FlowQueues/leave(_:service:now:)`` must follow.
    case dispatched(FlowRequestID)
    /// It waits.
    case queued(FlowRequestID)
    /// It was not taken.
    case rejected(FlowRejection)
}

/// Why a request does not go on.
public enum FlowRejection: Hashable, Sendable {
    /// The queues are full, or there is nobody to serve what they hold.
    case capacity(noEndpoints: Bool)
    /// It has waited for as long as it may, or all that time there was nobody to serve it.
    case expired(noEndpoints: Bool)
    /// The router stops.
    case shuttingDown
    /// It had to make room for a request of a higher priority while it was served.
    case evicted
    /// It may be shed, and the pool is saturated.
    case shed

    /// What the client gets.
    public var error: APIError {
        switch self {
        case .capacity(noEndpoints: false):
            .dropped(status: 429, reason: .saturated, "The queue of this priority is full.")
        case .capacity(noEndpoints: true):
            .dropped(
                status: 503, reason: .noEndpoints,
                "There is no model server, and the queue is full.")
        case .expired(noEndpoints: false):
            .dropped(
                status: 429, reason: .expired, "The request waited for too long to be served.")
        case .expired(noEndpoints: true):
            .dropped(
                status: 503, reason: .noEndpoints, "No model server came up in time to take this.")
        case .shuttingDown:
            .dropped(status: 503, reason: .shuttingDown, "The router is shutting down.")
        case .evicted:
            .dropped(status: 429, reason: .evicted, "request evicted by flow control")
        case .shed:
            .dropped(
                status: 429, reason: .saturated, "system saturated, sheddable request dropped")
        }
    }
}
