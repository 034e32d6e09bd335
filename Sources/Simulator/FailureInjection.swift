package import Core

/// How an engine may fail a generation on purpose. The first six have the names and statuses that
/// llm-d-inference-sim gives them; the others are what a router meets when an engine breaks.
public enum InjectedFailure: String, CaseIterable, Sendable {
    /// 429.
    case rateLimit = "rate_limit"
    /// 401.
    case invalidAPIKey = "invalid_api_key"
    /// 400.
    case contextLength = "context_length"
    /// 503.
    case serverError = "server_error"
    /// 400.
    case invalidRequest = "invalid_request"
    /// 404.
    case modelNotFound = "model_not_found"
    /// The request is taken, and nothing follows.
    case neverAnswer = "never_answer"
    /// The connection is closed after the first event of a stream, or within a whole reply.
    case closeMidStream = "close_mid_stream"
    /// 200, and a body that means nothing.
    case garbage

    /// Those that llm-d-inference-sim has.
    public static let upstream: [InjectedFailure] = [
        .rateLimit, .invalidAPIKey, .contextLength, .serverError, .invalidRequest, .modelNotFound,
    ]

    /// What the client is answered; nil if it gets no proper error.
    ///
    /// - Parameters:
    ///   - model: The model's name as the request gave it.
    ///   - modelLength: Tokens that the model takes.
    package func error(model: String, modelLength: Int) -> APIError? {
        switch self {
        case .rateLimit:
            APIError(
                status: 429, type: "RateLimitError",
                message: "Rate limit reached for \(model) (injected failure).")
        case .invalidAPIKey:
            APIError(
                status: 401, type: "AuthenticationError",
                message: "Incorrect API key provided (injected failure).")
        case .contextLength:
            .badRequest(
                "This model's maximum context length is \(modelLength) tokens, and the prompt is "
                    + "longer (injected failure).", param: "messages")
        case .serverError:
            APIError(
                status: 503, type: "InternalServerError",
                message: "The server is overloaded or not ready yet (injected failure).")
        case .invalidRequest:
            .badRequest("A parameter is missing: 'model' (injected failure).", param: "model")
        case .modelNotFound:
            .notFound("The model `\(model)` does not exist (injected failure).", param: "model")
        case .neverAnswer, .closeMidStream, .garbage: nil
        }
    }
}

/// Which generations fail: a share of them, each by one of some kinds, as a seed has it.
package struct FailureInjection: Sendable {
    private let share: Double
    private let kinds: [InjectedFailure]
    private var generator: SeededGenerator

    /// Fails `percent` of the requests.
    package init(percent: Double, kinds: [InjectedFailure], seed: UInt64) {
        share = percent / 100
        self.kinds = kinds
        // Apart from the sequence that replies are made of.
        generator = SeededGenerator(seed: seed ^ 0x6661_696c_7572_6573)
    }

    /// How the next request fails; nil if it does not.
    package mutating func next() -> InjectedFailure? {
        guard share > 0 else { return nil }
        let draw = Double(generator.next() >> 11) * 0x1p-53
        let kind = kinds.randomElement(using: &generator)
        return draw < share ? kind : nil
    }

    /// A body that means nothing: neither JSON nor text, and no end of an event.
    package mutating func garbage() -> [UInt8] {
        Array("data: {\"choices\":[".utf8) + [0xff, 0x00]
            + (0..<62).map { _ in UInt8.random(in: 0x80...0xff, using: &generator) }
    }
}
