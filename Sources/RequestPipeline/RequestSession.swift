public import Core
import FlowControl
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
    /// How the client's API writes errors.
    public let errorShape: APIError.Shape

    private enum State {
        case receiving
        case waiting
        case tokenizing
        case consulting
        case routed
        case ended
    }

    private let router: Router
    /// Nil if no parser takes the request.
    private let api: RequestAPI?
    /// Whether the client wants to know which models there are.
    private let wantsModels: Bool
    private let headers: any HeaderLookup
    private let hasRequestID: Bool
    private let contentLength: Int?
    private let startedAt: MonotonicTime

    private var state = State.receiving
    private var receivedBytes = 0
    private let scanner: JSONScanner?
    private var request: SchedulingRequest?
    /// What to ask an engine for the prompt's token ids with, until it was asked.
    private var renderBody: [UInt8]?
    private var ticket: FlowTicket?
    /// What services are yet to be asked, the next one last.
    private var inquiries: [Inquiry] = []

    private var placement: Placement?
    /// What plugins are told at the end of the last decision; nil if none asks.
    private var routed: RoutedRequest?
    private var failed: [UInt32] = []
    private var metrics: ModelMetrics?
    private var usage: UsageReader?
    private var responseModel: ResponseModelRewriter?
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
        api = router.scheduler.api(ofMethod: method, path: path)
        wantsModels = method == "GET" && path.hasSuffix("/v1/models")
        errorShape = APIError.Shape(path: path)
        let given = headers.value(ofHeader: "x-request-id")
        requestID = RequestID(header: given).text
        hasRequestID = given == requestID
        startedAt = now
        contentLength = headers.value(ofHeader: "content-length").flatMap { Int($0) }
        let length = min(contentLength ?? 0, router.configuration.maximumBodyBytes)
        if api == .opaque {
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
        guard api != nil else {
            return reject(.badRequest("No parser of this router takes requests to this path."))
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
        return consult()
    }

    /// The answer to ``Step/consult(_:)``. After a failure the request is decided without it.
    public func consulted(_ outcome: ServiceOutcome) -> Step {
        guard state == .consulting, let inquiry = inquiries.popLast(), var request else {
            return .more
        }
        if case .answered(200, _) = outcome {} else { router.metrics.consultFailures.increment() }
        inquiry.end(outcome, for: &request)
        self.request = request
        return askNext()
    }

    /// The endpoint of the last decision could not be connected to, and nothing of a response was
    /// seen: decides again without it.
    public func endpointFailed(now: MonotonicTime = .now) -> Step {
        guard state == .routed, let target = placement?.target else { return .more }
        target.requestFailedToConnect(at: now)
        failed.append(target.endpoint.id)
        release()
        guard failed.count < router.configuration.maximumAttempts else {
            return reject(.badGateway("\(failed.count) model servers could not be reached."))
        }
        return decide()
    }

    /// The decision stands, and no other will be asked for: lets go what that would need, the body
    /// and the prompt's token ids.
    public func settle() {
        body = []
        request = nil
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
        routed?.status = status
        settle()
        if placement?.responseStarted() == true { router.flow.promptComputed(now: .now) }
        if let server, let target = placement?.target, target.endpoint.server.address != server,
            let fallback = router.pool.snapshot.member(at: server)
        {
            placement?.move(to: fallback)
        }
        guard let target = placement?.target else { return [] }
        // 501 is the request's fault.
        target.requestAnswered(isFailure: [500, 502, 503, 504].contains(status), at: .now)
        guard let routed else { return [] }
        return router.scheduler.responseStarted(
            ResponseHead(status: status, server: target.endpoint), to: routed)
    }

    /// A piece of the response's body passed by.
    public func responseBody(
        _ bytes: UnsafeRawBufferPointer, now: @autoclosure () -> MonotonicTime = .now
    ) {
        guard state == .routed, !bytes.isEmpty else { return }
        if firstByteAt == nil {
            let now = now()
            firstByteAt = now
            routed?.firstByteAt = now
            placement?.endPrefill()
            router.flow.promptComputed(now: now)
        }
        usage?.append(bytes)
    }

    /// Whether the response's body must go through ``rewriteResponse(_:emit:)``, which changes its
    /// length. Does not change any more once the request is routed.
    public var rewritesResponse: Bool { responseModel != nil }

    /// Gives the model in a piece of the response's body the name that the client asked for. Hands
    /// the bytes to `emit`, in any number of pieces that are valid during the call; a few may be
    /// held back until the next piece, or ``finishResponse(emit:)``.
    public func rewriteResponse(
        _ bytes: UnsafeRawBufferPointer, emit: (UnsafeRawBufferPointer) -> Void
    ) {
        if responseModel?.rewrite(bytes, emit: emit) == nil { emit(bytes) }
    }

    /// Hands over what is held back of a response whose body is complete.
    public func finishResponse(emit: (UnsafeRawBufferPointer) -> Void) {
        responseModel?.finish(emit: emit)
    }

    /// What the response says of its tokens so far; nil if nothing. Engines say it last.
    public var tokenUsage: TokenUsage? {
        usage?.usage().map {
            TokenUsage(
                promptTokens: $0.promptTokens, completionTokens: $0.completionTokens,
                cachedTokens: $0.cachedTokens)
        }
    }

    /// What the data plane is told at the end of the response.
    public var reportedAttributes: [ReportedAttribute] {
        guard state == .routed, router.scheduler.reportsAttributes else { return [] }
        return router.scheduler.attributes(of: tokenUsage)
    }

    /// The request is over. Only the first call counts.
    public func completed(_ outcome: RequestOutcome, now: MonotonicTime = .now) {
        guard state == .routed else {
            // Counted as understood, and gone before it went anywhere.
            if [.tokenizing, .consulting, .waiting].contains(state) { metrics?.error(499) }
            state = .ended
            abandonInquiries()
            leaveFlow(now: now)
            return
        }
        // Not 503: this side's own trouble.
        if case .failed(let error) = outcome, [502, 504].contains(error.status) {
            placement?.target.requestAnswered(isFailure: true, at: now)
        }
        if case .finished = outcome { routed?.completedAt = now }
        release()
        state = .ended
        leaveFlow(now: now)
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
        if wantsModels, let list = router.modelList() {
            state = .ended
            return .answer(list)
        }
        var request = SchedulingRequest(id: requestID, model: "", headers: headers)
        if let scanner, let api {
            let document: JSONDocument
            do {
                document = try scanner.finish()
            } catch {
                throw .malformedJSON(error)
            }
            let read = try router.read(document, as: api, into: &request)
            model = request.model
            body = read.body
            renderBody = read.renderBody
            responseModel = read.responseModel
            isStreaming = request.details.isStreaming
            usage = UsageReader(keepsHead: api == .messages && isStreaming)
        }
        request.priority = router.priority(ofObjective: request.objectiveName)
        do {
            try router.scheduler.process(&request)
        } catch {
            throw error.apiError
        }
        if let refusal = gate?(request.promptTokenCount) { throw refusal }
        self.request = request
        if scanner != nil { metrics = router.metrics.model(of: request) }
        metrics?.started(bodyBytes: receivedBytes)
        return admit()
    }

    /// The request has its turn: asks for its token ids if they are wanted, else decides.
    private func proceed() -> Step {
        guard let body = renderBody.take(), let request, let path = api?.renderPath,
            let question = router.tokenizeRequest(for: request, path: path, body: body)
        else { return consult() }
        state = .tokenizing
        return .tokenize(question)
    }

    /// Asks the services that plugins go by, one after the other, then decides.
    private func consult() -> Step {
        guard router.scheduler.inquires, let request else { return decide() }
        inquiries = router.withDesk { desk in
            lay(request, on: desk, at: .now)
            defer { desk.clear() }
            return router.scheduler.inquiries(about: &desk.cycle).reversed()
        }
        return askNext()
    }

    private func askNext() -> Step {
        guard let inquiry = inquiries.last else { return decide() }
        state = .consulting
        return .consult(inquiry.question)
    }

    private func abandonInquiries() {
        for inquiry in inquiries { inquiry.abandon() }
        inquiries = []
    }

    private func decide() -> Step {
        guard let request else { return .more }
        let began = MonotonicTime.now
        do {
            let decision = try router.withDesk { (desk) throws(APIError) in
                lay(request, on: desk, at: began)
                defer { desk.clear() }
                return try decide(request, since: began, over: desk.snapshot, in: &desk.cycle)
            }
            state = .routed
            ticket?.placed()
            return .route(decision)
        } catch {
            return reject(error)
        }
    }

    private func lay(_ request: SchedulingRequest, on desk: Desk, at now: MonotonicTime) {
        let serving = desk.snapshot.endpointIDs(serving: request.targetModel)
        desk.lay(request, at: now) { member in
            !failed.contains(member.endpoint.id)
                && (serving?.contains(member.endpoint.id) ?? true)
                && (subset?.contains(member.endpoint.server.address) ?? true)
        }
    }

    private func decide(
        _ request: SchedulingRequest, since began: MonotonicTime, over snapshot: PoolSnapshot,
        in cycle: inout SchedulingCycle
    ) throws(APIError) -> Decision {
        var span = trace.flatMap { router.spans.begin("llm_d.epp.schedule", under: $0) }
        defer { span?.end() }
        let result: SchedulingResult
        do {
            result = try router.schedule(&cycle)
        } catch {
            throw apiError(error)
        }
        var headers = router.scheduler.prepare(result, in: cycle.context)
        if !hasRequestID { headers.append(.set(name: "x-request-id", value: requestID)) }
        // What is compressed cannot be looked into.
        if rewritesResponse, self.headers.value(ofHeader: "accept-encoding") != nil {
            headers.append(.set(name: "accept-encoding", value: "identity"))
        }

        if router.scheduler.observesResponses {
            routed = RoutedRequest(request, result, endpoints: cycle.context.endpoints)
        }

        let members = snapshot.members
        let picks = result.primary.map { members[$0.index] }
        let computing = result.prefill.first ?? result.primary[0]
        let placement = Placement(
            at: picks[0], prefill: result.prefill.first.map { members[$0.index] },
            uncachedTokens: cycle.context.uncachedTokenCount(at: computing.index))
        self.placement = placement
        metrics?.running.increment()
        router.metrics.decided(
            result, in: cycle.context, model: metrics, took: MonotonicTime.now - began)
        return Decision(
            endpoint: picks[0].endpoint, fallbacks: picks.dropFirst().map(\.endpoint),
            prefill: placement.prefill?.endpoint, headers: headers, model: model,
            targetModel: request.targetModel, requestID: requestID,
            scores: router.configuration.recordsScores ? cycle.scoreRecords ?? [] : [])
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
        abandonInquiries()
        leaveFlow(now: .now)
        (metrics ?? router.metrics.model(model)).error(error.status)
        return .reject(error.shaped(as: errorShape))
    }

    // MARK: - Flow control

    /// The ticket that may have something to say and that nobody listens to; to be asked for
    /// after every step. When it calls, ``signalled()`` is to be called.
    public var unheardTicket: FlowTicket? {
        guard let ticket, state == .waiting || ticket.isRevocable, !ticket.isHeard else {
            return nil
        }
        return ticket
    }

    /// Flow control has decided about the request: it goes on, or is rejected. A request may be
    /// rejected while it is served, and even after its response has begun.
    public func signalled() -> Step {
        guard state != .ended else { return .more }
        switch ticket?.take() {
        case .dispatched where state == .waiting: return proceed()
        case .rejected(let rejection):
            release()
            return reject(rejection.error)
        default: return .more
        }
    }

    private func admit() -> Step {
        // What has no body costs an engine nothing.
        guard let request, receivedBytes > 0 else { return proceed() }
        let admission = router.flow.admit(
            request, byteSize: receivedBytes, receivedAt: startedAt, now: .now)
        switch admission {
        case .passed(let ticket):
            self.ticket = ticket
            return proceed()
        case .waits(let ticket):
            self.ticket = ticket
            state = .waiting
            return .wait
        case .rejected(let rejection): return reject(rejection.error)
        }
    }

    private func leaveFlow(now: MonotonicTime) {
        guard let ticket else { return }
        self.ticket = nil
        ticket.leave(usage: ticket.countsService ? tokenUsage : nil, now: now)
    }

    /// The request is at no endpoint any more.
    private func release() {
        guard placement != nil else { return }
        placement?.end()
        placement = nil
        metrics?.running.decrement()
        guard let routed else { return }
        self.routed = nil
        router.scheduler.requestEnded(routed, usage: tokenUsage)
    }
}
