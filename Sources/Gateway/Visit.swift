internal import Core
internal import Net
internal import Relay
internal import RequestPipeline
internal import Scheduling
internal import Telemetry

/// One request as the front door sees it: who sends it, what it uses, what to note. Belongs to the
/// loop of its exchange.
final class Visit {
    private let door: FrontDoor
    private let head: HTTPRequestHead
    private let startedAt = MonotonicTime.now
    private var record: AccessRecord
    private var key: APIKey?
    private var usage: TokenUsage?
    private var reservedTokens = 0
    private var events: EventCounter?

    init(_ exchange: ServerExchange, through door: FrontDoor) {
        self.door = door
        head = exchange.head
        record = AccessRecord(method: head.method, path: String(head.path))
        record.client = exchange.peer?.host
    }

    /// Answers what goes no further than the door; nil: the request may come in.
    func answer(_ exchange: ServerExchange) -> AnsweredExchange? {
        if let preflight = door.cors?.preflight(head) {
            exchange.respond(preflight, body: [])
            return AnsweredExchange()
        }
        do throws(APIError) {
            try admit()
            return nil
        } catch {
            refused(error)
            let id = RequestID(header: head.headers[first: "x-request-id"])
            exchange.respond(error, requestID: id.text)
            return AnsweredExchange()
        }
    }

    private func admit() throws(APIError) {
        guard let keys = door.keys else { return }
        guard let shown = head.headers.apiKey, let key = keys.key(shown) else {
            door.refusals?.unauthorized.increment()
            throw .unauthorized(isMissing: head.headers.apiKey == nil)
        }
        self.key = key
        record.key = key.name
        try limited { (limiter) throws(APIError) in
            try limiter.begin(key: key.name, at: door.clock())
        }
    }

    /// Takes the tokens of the prompt, which is all that is known before the reply. Returns what
    /// the client is told if they are not there.
    func reserve(promptTokens count: Int) -> APIError? {
        guard let key else { return nil }
        do throws(APIError) {
            try limited { (limiter) throws(APIError) in
                try limiter.reserve(count, key: key.name, at: door.clock())
            }
            reservedTokens = count
            return nil
        } catch {
            return error
        }
    }

    private func limited(
        _ body: (inout RateLimiter) throws(APIError) -> Void
    ) throws(APIError) {
        do {
            try key?.withLimiter(body)
        } catch {
            door.refusals?.overLimit.increment()
            throw error
        }
    }

    /// The request goes to these endpoints.
    func routed(_ decision: Decision) {
        record.endpoint = decision.endpoint.server.name
        record.prefill = decision.prefill?.server.name
    }

    /// Who computed the prompt, as the sidecar tells.
    func prefilled(by endpoint: Endpoint) {
        record.prefill = endpoint.server.name
    }

    /// The request was answered with an error of this side, or its response was broken off.
    func refused(_ error: APIError) {
        let dropped = error.headers.first { $0.name == "x-llm-d-request-dropped-reason" }
        record.reason = dropped?.value ?? error.code ?? error.type
    }

    /// The request is over, and this is what its session knows of it.
    func ended(_ session: RequestSession) {
        record.requestID = session.requestID
        record.model = session.model.isEmpty ? nil : session.model
        usage = session.tokenUsage
    }

    /// What the request used of its key's tokens.
    private var usedTokens: Int {
        if let usage, let prompt = usage.promptTokens {
            return prompt + (usage.completionTokens ?? 0)
        }
        // Engines that fail a request have not used much.
        if let status = record.status, status >= 400 { return 0 }
        return reservedTokens + (events?.count ?? 0)
    }
}

extension Visit: ServerExchangeWatcher {
    func exchange(_ exchange: ServerExchange, willRespond head: inout HTTPResponseHead) {
        record.status = head.status
        record.firstByte = .now - startedAt
        if let id = head.headers[first: "x-request-id"] { record.requestID = id }
        door.cors?.apply(to: &head.headers, for: self.head)
        guard let key else { return }
        let limits = try? key.withLimiter { $0.headers(at: door.clock()) }
        for limit in limits ?? [] { head.headers.set(limit.name, limit.value) }
        if head.headers[first: "content-type"]?.hasPrefix("text/event-stream") == true {
            events = EventCounter()
        }
    }

    func exchange(_ exchange: ServerExchange, receivedCount count: Int) {
        record.bytesIn += count
    }

    func exchange(_ exchange: ServerExchange, sends body: UnsafeRawBufferPointer) {
        record.bytesOut += body.count
        events?.add(body)
    }

    func exchange(_ exchange: ServerExchange, ended reason: ExchangeEnd) {
        _ = try? key?.withLimiter {
            $0.settle(reserved: reservedTokens, used: usedTokens, at: door.clock())
        }
        guard let log = door.log else { return }
        if case .aborted(let error) = reason, record.reason == nil {
            // Net itself answers a body that stalls.
            if error == .timeout(.idle), record.status == nil, !exchange.isHTTP2 {
                record.status = 408
            }
            record.reason = error.isTimeout ? "timeout" : "client_gone"
        }
        record.duration = .now - startedAt
        record.promptTokens = usage?.promptTokens
        record.completionTokens = usage?.completionTokens
        record.cachedTokens = usage?.cachedTokens
        log.write(record.line(at: timestamp()))
    }
}

extension APIError {
    /// 401 in OpenAI's words.
    static func unauthorized(isMissing: Bool) -> APIError {
        APIError(
            status: 401, type: "invalid_request_error",
            message: isMissing
                ? "No API key was given. It goes into the header 'Authorization: Bearer KEY'."
                : "Incorrect API key provided.",
            code: "invalid_api_key", headers: [.init("www-authenticate", "Bearer")])
    }
}

extension NetError {
    fileprivate var isTimeout: Bool {
        if case .timeout = self { true } else { false }
    }
}
