internal import Core
internal import ModelServers
internal import Net
internal import Relay
internal import RequestPipeline
internal import Scan
internal import Synchronization

/// Asks a model server for the token ids of prompts (`/v1/completions/render`), a bounded number
/// at a time. Any thread; each question stays on its loop.
final class PromptTokenizer: Sendable {
    /// How many engines a question tries that cannot be connected to.
    private static let maximumAttempts = 3

    private let server: SocketAddress?
    private let pool: EndpointPool
    private let clients: HTTPClientGroup
    private let timeout: Duration
    private let limit: Int
    private let count = Atomic<Int>(0)
    private let turn = Atomic<Int>(0)

    /// - Parameters:
    ///   - server: who is asked; nil: the healthy engines of the pool in turn.
    ///   - timeout: how long an answer may take.
    ///   - limit: how many questions may wait for their answers.
    init(
        server: SocketAddress?, pool: EndpointPool, clients: HTTPClientGroup, timeout: Duration,
        limit: Int
    ) {
        self.server = server
        self.pool = pool
        self.clients = clients
        self.timeout = timeout
        self.limit = limit
    }

    /// Asks for the tokens of a prompt. On the loop.
    ///
    /// - Throws: `unavailable` if nobody can be asked now.
    func start(
        _ prompt: String, model: String, on loop: EventLoop,
        completion: @escaping (Result<[UInt32], GRPCStatus>) -> Void
    ) throws(GRPCStatus) -> Tokenization {
        let engines = server.map { [$0] } ?? engines()
        guard !engines.isEmpty else {
            throw .unavailable("no model server can be asked for the tokens of the prompt")
        }
        guard count.add(1, ordering: .relaxed).newValue <= limit else {
            count.subtract(1, ordering: .relaxed)
            throw .unavailable("\(limit) prompts are being tokenized, and no more can be")
        }
        let tokenization = Tokenization { [self] in count.subtract(1, ordering: .relaxed) }
        let head = HTTPRequestHead(
            method: "POST", target: "/v1/completions/render",
            headers: ["content-type": "application/json"])
        let body = Self.body(prompt, model)
        tokenization.request = BufferedRequest(
            head, to: engines, body: body, through: clients.client(on: loop),
            maximumResponseBytes: 16 * body.count + 65536, timeout: timeout
        ) { [tokenization] result in
            tokenization.end()
            completion(result.mapError(Self.status).flatMap(Self.tokens))
        }
        return tokenization
    }

    /// Some of those that answer scrapes, another first each time.
    private func engines() -> [SocketAddress] {
        let healthy = pool.snapshot.members.filter(\.isHealthy).map(\.endpoint.server.address)
        guard !healthy.isEmpty else { return [] }
        let first = turn.wrappingAdd(1, ordering: .relaxed).oldValue
        return (0..<min(healthy.count, Self.maximumAttempts)).map { offset in
            healthy[Int(UInt(bitPattern: first &+ offset) % UInt(healthy.count))]
        }
    }

    private static func body(_ prompt: String, _ model: String) -> [UInt8] {
        var json = JSONWriter(capacity: prompt.utf8.count + model.utf8.count + 64)
        json.beginObject()
        json.member("model", model)
        json.member("prompt", prompt)
        json.endObject()
        return json.bytes
    }

    private static func status(_ error: NetError) -> GRPCStatus {
        status(APIError(upstream: error))
    }

    private static func status(_ error: APIError) -> GRPCStatus {
        error.status == 504 ? .deadlineExceeded(error.message) : .unavailable(error.message)
    }

    private static func tokens(_ response: HTTPResponse) -> Result<[UInt32], GRPCStatus> {
        // What the model server refuses is the caller's mistake, not the server's failure.
        if (400..<500).contains(response.status), ![408, 429].contains(response.status) {
            let said = (try? JSONDocument.parse(response.body))?["error"]?["message"]?.string
            let message = "The model server answered \(response.status): \(said ?? "no reason")"
            return .failure(
                response.status == 404 ? .notFound(message) : .invalidArgument(message))
        }
        return TokenizeRequest.tokens(status: response.status, body: response.body)
            .mapError(status)
    }
}

/// A question for tokens that is under way. Belongs to its loop.
final class Tokenization {
    fileprivate var request: BufferedRequest?
    private var release: (() -> Void)?

    fileprivate init(release: @escaping () -> Void) {
        self.release = release
    }

    /// Ends the question; its completion is not called. A second call does nothing.
    func cancel() {
        request?.cancel()
        end()
    }

    fileprivate func end() {
        request = nil
        release?()
        release = nil
    }
}
