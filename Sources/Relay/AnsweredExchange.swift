public import Net

extension AnsweredExchange {
    /// Answers a question for health: whoever answers is well.
    public static func healthy(_ exchange: ServerExchange) -> AnsweredExchange {
        exchange.respond(
            HTTPResponseHead(status: 200, headers: ["content-type": "application/json"]),
            text: #"{"status":"ok"}"#)
        return AnsweredExchange()
    }
}

extension HTTPClientConfiguration {
    /// For requests to model servers, each of which may be busy with other prompts for long
    /// before it answers.
    public static var modelServers: HTTPClientConfiguration {
        var configuration = HTTPClientConfiguration()
        configuration.responseHeadTimeout = .seconds(600)
        configuration.idleTimeout = .seconds(300)
        // Uvicorn, which serves vLLM's API, closes idle connections after 5 s: this side is first.
        configuration.idleConnectionLifetime = .seconds(4)
        configuration.maximumConnectionsPerHost = 10_000
        return configuration
    }
}
