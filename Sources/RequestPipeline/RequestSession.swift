public import Core
import ModelServers
import Scan
public import Scheduling
import Telemetry

/// One request on its way from bytes to a decision and through its response. Sans-I/O: it is told
/// what happens and says what to do. Belongs to one thread.
///
/// Call ``begin(endOfBody:)``, then ``received(_:)`` and ``receivedEnd()`` until a step other than
/// ``Step/more`` comes. After ``Step/route(_:)`` tell it of the response, and at its end, whatever
/// the end was, call ``completed(_:)``. A session that is dropped completes as `clientGone`.
public final class RequestSession {
    /// Only these endpoints may be picked; nil: all. Set before the first step.
    public var subset: [SocketAddress]?
    /// Asked before a decision, with the tokens of the prompt as far as they are known; an error is
    /// the client's answer. Set before the first step.
    public var gate: ((_ promptTokens: Int) -> APIError?)?
    /// The model that the client asked for; empty until it is known.
    public private(set) var model = ""
    /// The value of `x-request-id`, the client's or a new one.
    public let requestID: String
    /// The request's body, from the step that ends it until the response starts. Copies share its
    /// storage.
    public private(set) var body: [UInt8] = []

    private enum State {
        case receiving
        case tokenizing
        case routed
        case ended
    }

    private let router: Router
    private let kind: RequestKind
    private let headers: any HeaderLookup
    private let hasRequestID: Bool
    private let contentLength: Int?
    private let startedAt: MonotonicTime

    private var state = State.receiving
    private var receivedBytes = 0
    private let scanner: JSONScanner?
    private var request: SchedulingRequest?

    private var target: PoolMember?
    private var prefillTarget: PoolMember?
    /// Whether the request is the probe of the target's open circuit.
    private var isProbe = false
    private var prefillTokens = 0
    /// What plugins are told at the end of the last decision; nil if none asks.
    private var routed: RoutedRequest?
    private var failed: [UInt32] = []
    private var metrics: ModelMetrics?
    private var usage: UsageReader?
    private var isStreaming = false
    private var status: Int?
    private var firstByteAt: MonotonicTime?

    /// Starts with the head of a request. `path` has no query.
    public init(
        router: Router, method: String, path: some StringProtocol, headers: any HeaderLookup,
        now: MonotonicTime = .now
    ) {
        self.router = router
        self.headers = headers
        kind = RequestKind(method: method, path: path)
        let given = headers.value(ofHeader: "x-request-id")
        requestID = RequestID(header: given).text
        hasRequestID = given == requestID
        startedAt = now
        contentLength = headers.value(ofHeader: "content-length").flatMap { Int($0) }
        let length = min(contentLength ?? 0, router.configuration.maximumBodyBytes)
        if kind == .opaque {
            scanner = nil
            body.reserveCapacity(length)
        } else {
            scanner = JSONScanner(expectedBytes: length)
        }
    }

    deinit {
        completed(.clientGone)
    }

    // MARK: - The request

    /// The head is complete; `endOfBody` says that no body follows.
    public func begin(endOfBody: Bool) -> Step {
        if let contentLength, contentLength > router.configuration.maximumBodyBytes {
            return reject(.tooLarge(limitBytes: router.configuration.maximumBodyBytes))
        }
        return endOfBody ? receivedEnd() : .more
    }

    /// A piece of the body, of any length; copied.
    public func received(_ bytes: UnsafeRawBufferPointer) -> Step {
        guard state == .receiving else { return .more }
        receivedBytes += bytes.count
        guard receivedBytes <= router.configuration.maximumBodyBytes else {
            return reject(.tooLarge(limitBytes: router.configuration.maximumBodyBytes))
        }
        guard let scanner else {
            body.append(contentsOf: bytes)
            return .more
        }
        do {
            try scanner.feed(bytes)
            return .more
        } catch {
            return reject(.malformedJSON(error))
        }
    }

    /// Whether the body is awaited.
    public var isReceiving: Bool { state == .receiving }

    /// The body is complete.
    public func receivedEnd() -> Step {
        guard state == .receiving else { return .more }
        do {
            return try parsed()
        } catch {
            return reject(error)
        }
    }

    /// The answer to ``Step/tokenize(_:)``. After a failure the request goes on without a prefix
    /// to match.
    public func tokenized(_ result: Result<[UInt32], APIError>) -> Step {
        guard state == .tokenizing else { return .more }
        switch result {
        case .success(let tokens):
            request?.tokens = tokens
            request?.promptTokenCount = tokens.count
        case .failure:
            router.metrics.tokenizeFailures.increment()
        }
        return decide()
    }

    /// The endpoint of the last decision could not be connected to, and nothing of a response was
    /// seen: decides again without it.
    public func endpointFailed(now: MonotonicTime = .now) -> Step {
        guard state == .routed, let target else { return .more }
        target.requestFailedToConnect(at: now)
        failed.append(target.endpoint.id)
        release()
        guard failed.count < router.configuration.maximumAttempts else {
            return reject(.badGateway("\(failed.count) model servers could not be reached."))
        }
        return decide()
    }

    // MARK: - The response

    /// The head of the response came: the prompt is computed, and what a further try would need
    /// is let go. `server` is who answered, if the data plane tells: it may have gone on to a
    /// fallback. Returns changes to the response's headers.
    @discardableResult
    public func responseStarted(
        status: Int, servedBy server: SocketAddress? = nil
    ) -> [HeaderMutation] {
        guard state == .routed else { return [] }
        self.status = status
        body = []
        request = nil
        endPrefill()
        if let server, let target, target.endpoint.server.address != server,
            let fallback = router.pool.snapshot.member(at: server)
        {
            let wasProbe = isProbe
            isProbe = fallback.requestStarted()
            target.requestEnded(wasProbe: wasProbe)
            self.target = fallback
        }
        self.target?.requestAnswered(isFailure: Self.speaksAgainst(status), at: .now)
        guard let routed, let target else { return [] }
        return router.scheduler.responseStarted(
            ResponseHead(status: status, server: target.endpoint), to: routed)
    }

    /// A piece of the response's body passed by.
    public func responseBody(
        _ bytes: UnsafeRawBufferPointer, now: @autoclosure () -> MonotonicTime = .now
    ) {
        guard state == .routed, !bytes.isEmpty else { return }
        if firstByteAt == nil { firstByteAt = now() }
        usage?.append(bytes)
    }

    /// What the response says of its tokens so far; nil if nothing. Engines say it last.
    public var tokenUsage: TokenUsage? {
        usage?.usage().map {
            TokenUsage(
                promptTokens: $0.promptTokens, completionTokens: $0.completionTokens,
                cachedTokens: $0.cachedTokens)
        }
    }

    /// The request is over. Only the first call counts.
    public func completed(_ outcome: RequestOutcome, now: MonotonicTime = .now) {
        guard state == .routed else {
            // Counted as understood, and gone before it went anywhere.
            if state == .tokenizing { metrics?.error(499) }
            state = .ended
            return
        }
        // Not 503: this side's own trouble.
        if case .failed(let error) = outcome, [502, 504].contains(error.status) {
            target?.requestAnswered(isFailure: true, at: now)
        }
        release()
        state = .ended
        guard let metrics else { return }
        switch outcome {
        case .finished:
            if let status, status >= 400 {
                metrics.error(status)
                return
            }
        case .clientGone: metrics.error(499)
        case .failed(let error): metrics.error(error.status)
        }
        if case .finished = outcome {
            metrics.succeeded(
                duration: now - startedAt, firstByte: firstByteAt.map { $0 - startedAt },
                isStreaming: isStreaming, usage: usage)
        }
    }

    // MARK: - Steps

    private func parsed() throws(APIError) -> Step {
        var tokens: [UInt32] = []
        var promptTokenCount = 0
        var cacheSalt: String?
        var promptText: PromptText?
        var media: [MediaItem] = []
        var needsTokens = false
        if let scanner {
            let document: JSONDocument
            do {
                document = try scanner.finish()
            } catch {
                throw .malformedJSON(error)
            }
            let parsed = try ParsedRequest(document, kind: kind)
            body = document.bytes
            model = parsed.model
            try checkModel()
            metrics = router.metrics.model(model)
            usage = UsageReader()
            isStreaming = parsed.isStreaming
            promptTokenCount = parsed.promptTokenCount
            cacheSalt = parsed.cacheSalt
            switch parsed.prompt {
            case .tokens(let ids): tokens = ids
            case .text(let range):
                needsTokens = router.scheduler.needsTokens
                promptText = PromptText(body: body, range: range)
            case .none: break
            }
            if router.scheduler.promptNeeds.contains(.media) { media = document.mediaItems() }
        }
        var request = SchedulingRequest(
            id: requestID, model: model, headers: headers, tokens: tokens,
            promptTokenCount: promptTokenCount, cacheSalt: cacheSalt, promptText: promptText,
            media: media)
        do {
            try router.scheduler.process(&request)
        } catch {
            throw error.apiError
        }
        if let refusal = gate?(promptTokenCount) { throw refusal }
        self.request = request
        metrics?.started(bodyBytes: receivedBytes)
        guard needsTokens, let question = tokenizeRequest() else { return decide() }
        state = .tokenizing
        return .tokenize(question)
    }

    private func checkModel() throws(APIError) {
        let configured = router.configuration.models
        let known = configured.isEmpty ? router.pool.snapshot.models : configured
        if let known, !known.contains(model) { throw .unknownModel(model, known: known) }
    }

    /// Asks the healthy engines with the fewest requests; nil if there is none.
    private func tokenizeRequest() -> TokenizeRequest? {
        let engines = router.pool.snapshot.members.filter(\.isHealthy)
            .sorted { $0.inFlightCount < $1.inFlightCount }
            .prefix(3).map(\.endpoint.server.address)
        guard !engines.isEmpty else { return nil }
        return TokenizeRequest(
            engines: Array(engines), path: kind.renderPath, body: body,
            timeout: router.configuration.tokenizeTimeout,
            maximumResponseBytes: 16 * receivedBytes + 65536)
    }

    private func decide() -> Step {
        guard let request else { return .more }
        let began = MonotonicTime.now
        do {
            let decision = try router.withDesk { (desk) throws(APIError) in
                desk.lay(request, at: began) { member in
                    !failed.contains(member.endpoint.id)
                        && (subset?.contains(member.endpoint.server.address) ?? true)
                }
                defer { desk.clear() }
                return try decide(request, since: began, over: desk.snapshot, in: &desk.cycle)
            }
            state = .routed
            return .route(decision)
        } catch {
            return reject(error)
        }
    }

    private func decide(
        _ request: SchedulingRequest, since began: MonotonicTime, over snapshot: PoolSnapshot,
        in cycle: inout SchedulingCycle
    ) throws(APIError) -> Decision {
        var span = trace.flatMap { router.spans.begin("llm_d.epp.schedule", under: $0) }
        defer { span?.end() }
        cycle.scoreRecords = router.configuration.recordsScores ? [] : nil
        let result: SchedulingResult
        do {
            result = try router.scheduler.schedule(&cycle)
        } catch {
            throw apiError(error)
        }
        var headers = router.scheduler.prepare(result, in: cycle.context)
        if !hasRequestID { headers.append(.set(name: "x-request-id", value: requestID)) }

        if router.scheduler.observesResponses {
            routed = RoutedRequest(request, result, endpoints: cycle.context.endpoints)
        }

        let members = snapshot.members
        let picks = result.primary.map { members[$0.index] }
        let computing = result.prefill.first ?? result.primary[0]
        hold(
            picks[0], prefill: result.prefill.first.map { members[$0.index] },
            uncachedTokens: cycle.context.uncachedTokenCount(at: computing.index))
        router.metrics.decided(
            result, in: cycle.context, model: metrics, took: MonotonicTime.now - began)
        return Decision(
            endpoint: picks[0].endpoint, fallbacks: picks.dropFirst().map(\.endpoint),
            prefill: prefillTarget?.endpoint, headers: headers, model: model,
            targetModel: request.targetModel, requestID: requestID,
            scores: cycle.scoreRecords ?? [])
    }

    /// The client's trace, if spans are wanted.
    private var trace: TraceContext? {
        guard router.spans.isRecording else { return nil }
        return headers.value(ofHeader: "traceparent").flatMap {
            TraceContext(traceparent: $0, tracestate: headers.value(ofHeader: "tracestate"))
        }
    }

    private func apiError(_ failure: SchedulingFailure) -> APIError {
        // Whatever rules the rest out: there was one that should have worked.
        guard failed.isEmpty else { return .badGateway("No model server could be reached.") }
        return failure.apiError
    }

    private func reject(_ error: APIError) -> Step {
        state = .ended
        (metrics ?? router.metrics.model(model)).error(error.status)
        return .reject(error)
    }

    // MARK: - Requests in flight

    private func hold(_ member: PoolMember, prefill: PoolMember?, uncachedTokens: Int) {
        target = member
        prefillTarget = prefill
        prefillTokens = uncachedTokens
        isProbe = member.requestStarted()
        prefill?.requestStarted()
        (prefill ?? member).prefillStarted(tokenCount: uncachedTokens)
        metrics?.running.increment()
    }

    private func release() {
        guard let member = target else { return }
        endPrefill()
        member.requestEnded(wasProbe: isProbe)
        isProbe = false
        target = nil
        metrics?.running.decrement()
        guard let routed else { return }
        self.routed = nil
        router.scheduler.requestEnded(routed, usage: tokenUsage)
    }

    /// Whether an answer with this status is the endpoint's fault. 501 is the request's.
    private static func speaksAgainst(_ status: Int) -> Bool {
        [500, 502, 503, 504].contains(status)
    }

    /// The prompt is computed, or nobody will wait for it.
    private func endPrefill() {
        (prefillTarget ?? target)?.prefillEnded(tokenCount: prefillTokens)
        prefillTokens = 0
        prefillTarget?.requestEnded()
        prefillTarget = nil
    }
}
