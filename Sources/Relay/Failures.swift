public import Core
public import Net

extension APIError {
    /// What a client is told of an upstream that failed: 504 if it was slow, else 502.
    public init(upstream error: NetError) {
        self =
            if case .timeout = error {
                .gatewayTimeout("The model server did not answer in time: \(error).")
            } else {
                .badGateway("The model server failed: \(error).")
            }
    }
}

extension ServerExchange {
    /// Answers with an error in OpenAI's shape.
    public func respond(_ error: APIError, requestID: String) {
        var headers: HTTPHeaders = [
            "content-type": "application/json", "x-request-id": requestID,
        ]
        for header in error.headers { headers.append(header.name, header.value) }
        respond(HTTPResponseHead(status: error.status, headers: headers), text: error.body)
    }
}
