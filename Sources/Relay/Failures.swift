public import Core
public import Net

extension APIError {
    /// What a client is told when a request to an upstream failed: 504 if that was slow, 503 if it
    /// was this side's own trouble, else 502.
    public init(upstream error: NetError) {
        self =
            switch error {
            case .timeout: .gatewayTimeout("The model server did not answer in time: \(error).")
            case .tooManyFiles, .cancelled:
                APIError(
                    status: 503, type: "ServiceUnavailable",
                    message: "The model server was not asked: \(error).")
            default: .badGateway("The model server failed: \(error).")
            }
    }
}

extension ServerExchange {
    /// Answers with an error, in its shape.
    public func respond(_ error: APIError, requestID: String) {
        var headers: HTTPHeaders = [
            "content-type": "application/json", "x-request-id": requestID,
        ]
        for header in error.headers { headers.append(header.name, header.value) }
        respond(HTTPResponseHead(status: error.status, headers: headers), text: error.body)
    }
}
