public import Core
public import Scheduling

/// What a session wants next.
public enum Step: Sendable {
    /// Nothing yet: more of the request, or the answer that was asked for.
    case more
    /// The token ids of the prompt, by ``RequestSession/tokenized(_:)``.
    case tokenize(TokenizeRequest)
    /// The answer of a service, by ``RequestSession/consulted(_:)``.
    case consult(ServiceQuestion)
    /// The request waits for its turn. It is told by ``RequestSession/unheardTicket``.
    case wait
    /// The request goes to an endpoint. ``RequestSession/completed(_:)`` must follow.
    case route(Decision)
    /// The client gets this from the router itself. The session has ended.
    case answer(LocalResponse)
    /// The client gets an error. The session has ended.
    case reject(APIError)
}

/// Where a request goes, and how. The body goes as ``RequestSession/body`` has it.
public struct Decision: Sendable {
    /// Where the request goes.
    public var endpoint: Endpoint
    /// Where else it may go, the best first; for `x-gateway-destination-endpoint`.
    public var fallbacks: [Endpoint]
    /// Who computes the prompt, if another endpoint does.
    public var prefill: Endpoint?
    /// Changes to the request's headers, beside the removal of the router's own.
    public var headers: [HeaderMutation]
    /// The model that the client asked for; empty if the request names none.
    public var model: String
    /// The model that the endpoint is asked for.
    public var targetModel: String
    /// The value of `x-request-id`, the client's or a new one.
    public var requestID: String
    /// Every score that led here; empty unless the router records them.
    public var scores: [ScoreRecord]
}

/// How a request ended, seen from the router.
public enum RequestOutcome: Sendable {
    /// The response was passed on to its end.
    case finished
    /// The client went away.
    case clientGone
    /// The endpoint broke off or did not answer in time; the client got this, or a torn response.
    case failed(APIError)
}
