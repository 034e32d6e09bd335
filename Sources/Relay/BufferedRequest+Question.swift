public import Core
public import Net

extension BufferedRequest {
    /// Asks a service; `completion` is handed over what became of the question.
    public convenience init(
        _ question: ServiceQuestion, through client: HTTPClient,
        completion: @escaping (ServiceOutcome) -> Void
    ) {
        self.init(
            HTTPRequestHead(
                method: "POST", target: question.path,
                headers: ["content-type": "application/json"]),
            to: question.servers, body: question.body, through: client,
            maximumResponseBytes: question.maximumAnswerBytes, timeout: question.timeout
        ) { result in
            switch result {
            case .success(let response):
                completion(.answered(status: response.status, body: response.body))
            case .failure: completion(.failed)
            }
        }
    }
}
