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
    public var subset: [SocketAddress]? {
        get { limits.subset }
        set { limits.subset = newValue }
    }
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
    private let startedAt: MonotonicTime

    private var state = State.receiving
    private var intake: BodyIntake
    private var request: SchedulingRequest?
    /// What to ask an engine for the prompt's token ids with, until it was asked.
    private var renderBody: [UInt8]?
    private var flow: FlowPassage
    private var consultation = Consultation()

    private var limits = EndpointLimits()
    private var placement: Placement?
    /// What plugins are told at the end of the last decision; nil if none asks.
    private var routed: RoutedRequest?
    private var metrics: ModelMetrics?
    private var response = ResponseProgress()

    /// Starts with the head of a request. `path` has no query.
    public init(
        router: Router, method: String, path: Substring, headers: any HeaderLookup,
        now: MonotonicTime = .now
    ) {
        self.router = router
        self.headers = headers
        api = router.scheduler.api(ofMethod: method, path: path)
        wantsModels = method == "GET" && path.hasUTF8Suffix("/v1/models".utf8)
        errorShape = APIError.Shape(path: path)
        requestID = RequestID(header: headers.value(ofHeader: "x-request-id")).text
        startedAt = now
        flow = FlowPassage(through: router.flow)
        intake = BodyIntake(of: api, headers: headers, router: router)
    }

    deinit {
        completed(.clientGone)
    }

    // MARK: - The request

    /// The head is complete; `endOfBody` says that no body follows.
    public func begin(endOfBody: Bool) -> Step {
        do {
            try intake.checkLength()
        } catch {
            return reject(error)
        }
        guard api != nil else {
            return reject(.badRequest("No parser of this router takes requests to this path."))
        }
        return endOfBody ? receivedEnd() : .more
    }

    /// A piece of the body, of any length; copied.
    public func received(_ bytes: UnsafeRawBufferPointer) -> Step {
        guard state == .receiving else { return .more }
        do {
            try intake.append(bytes)
            return .more
        } catch {
            return reject(error)
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
        guard state == .tokenizing, var request else { return .more }
        switch result {
        case .success(let tokens):
            request.tokens = tokens
            request.promptTokenCount = tokens.count
            self.request = request
        case .failure:
            router.metrics.tokenizeFailures.increment()
        }
        return consult(request)
    }

    /// The answer to ``Step/consult(_:)``. After a failure the request is decided without it.
    public func consulted(_ outcome: ServiceOutcome) -> Step {
        guard state == .consulting, var request else { return .more }
        if case .answered(200, _) = outcome {} else { router.metrics.consultFailures.increment() }
        consultation.end(outcome, for: &request)
        self.request = request
        return askNext(request)
    }

    /// The endpoint of the last decision could not be connected to, and nothing of a response was
    /// seen: decides again without it.
    public func endpointFailed(now: MonotonicTime = .now) -> Step {
        guard state == .routed, let target = placement?.target, let request else { return .more }
        target.requestFailedToConnect(at: now)
        limits.failed.append(target.endpoint.id)
        release()
        let failedCount = limits.failed.count
        guard failedCount < router.configuration.maximumAttempts else {
            return reject(.badGateway("\(failedCount) model servers could not be reached."))
        }
        return decide(request)
    }

    /// The decision stands, and no other will be asked for: lets go what that would need, the body
    /// and the prompt's token ids.
    public func settle() {
        body = []
        request = nil
    }

    // MARK: - The response

    /// The head of the response came, and what a further try would need is let go. `server` is who
    /// answered, if the data plane tells: it may have gone on to a fallback. Returns changes to the
    /// response's headers.
    @discardableResult
    public func responseStarted(
        status: Int, servedBy server: SocketAddress? = nil
    ) -> [HeaderMutation] {
        guard state == .routed else { return [] }
        response.status = status
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
        guard response.append(bytes, at: now()), let firstByteAt = response.firstByteAt else {
            return
        }
        routed?.firstByteAt = firstByteAt
        placement?.endPrefill()
        router.flow.promptComputed(now: firstByteAt)
    }

    /// Whether the response's body must go through ``rewriteResponse(_:emit:)``, which changes its
    /// length. Does not change any more once the request is routed.
    public var rewritesResponse: Bool { response.isRewritten }

    /// Gives the model in a piece of the response's body the name that the client asked for. Hands
    /// the bytes to `emit`, in any number of pieces that are valid during the call; a few may be
    /// held back until the next piece, or ``finishResponse(emit:)``.
    public func rewriteResponse(
        _ bytes: UnsafeRawBufferPointer, emit: (UnsafeRawBufferPointer) -> Void
    ) {
        response.rewrite(bytes, emit: emit)
    }

    /// Hands over what is held back of a response whose body is complete.
    public func finishResponse(emit: (UnsafeRawBufferPointer) -> Void) {
        response.finish(emit: emit)
    }

    /// What the response says of its tokens so far; nil if nothing. Engines say it last.
    public var tokenUsage: TokenUsage? { response.tokenUsage }

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
            consultation.abandon()
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
            if let status = response.status, status >= 400 {
                metrics.error(status)
                return
            }
        case .clientGone: metrics.error(499)
        case .failed(let error): metrics.error(error.status)
        }
        if case .finished = outcome {
            metrics.succeeded(
                duration: now - startedAt,
                firstByte: response.firstByteAt.map { $0 - startedAt },
                isStreaming: response.isStreaming, usage: response.usage)
        }
    }

    // MARK: - Steps

    /// Reads the body: model, objective, priority, what plugins find in the headers.
    private func parsed() throws(APIError) -> Step {
        if wantsModels, let list = router.modelList() {
            state = .ended
            return .answer(list)
        }
        var request = SchedulingRequest(id: requestID, model: "", headers: headers)
        switch try intake.finish() {
        case .opaque(let bytes): body = bytes
        case .json(let document, let followed):
            guard let api else { return .more }
            let read = try router.read(document, as: api, followed: followed, into: &request)
            model = request.model
            body = read.body
            renderBody = read.renderBody
            response = ResponseProgress(
                of: api, isStreaming: request.details.isStreaming, model: read.responseModel)
        }
        request.priority = router.priority(ofObjective: request.objectiveName)
        do {
            try router.scheduler.process(&request)
        } catch {
            throw error.apiError
        }
        if let refusal = gate?(request.promptTokenCount) { throw refusal }
        self.request = request
        if api != .opaque { metrics = router.metrics.model(of: request) }
        metrics?.started(bodyBytes: intake.byteCount)
        return admit(request)
    }

    /// Asks flow control whether the request goes on, waits or is refused.
    private func admit(_ request: SchedulingRequest) -> Step {
        switch flow.enter(request, byteSize: intake.byteCount, receivedAt: startedAt) {
        case .goesOn: return proceed(request)
        case .waits:
            state = .waiting
            return .wait
        case .rejected(let error): return reject(error)
        }
    }

    /// The request has its turn: asks for its token ids if they are wanted, else decides.
    private func proceed(_ request: SchedulingRequest) -> Step {
        guard let body = renderBody.take(), let path = api?.renderPath,
            let question = router.tokenizeRequest(for: request, path: path, body: body)
        else { return consult(request) }
        state = .tokenizing
        return .tokenize(question)
    }

    /// Asks the services that plugins go by, one after the other, then decides.
    private func consult(_ request: SchedulingRequest) -> Step {
        if router.scheduler.inquires {
            consultation = Consultation(about: request, within: limits, by: router)
        }
        return askNext(request)
    }

    private func askNext(_ request: SchedulingRequest) -> Step {
        guard let question = consultation.question else { return decide(request) }
        state = .consulting
        return .consult(question)
    }

    private func decide(_ request: SchedulingRequest) -> Step {
        do {
            let routing = try router.route(
                request, within: limits, rewritesResponse: rewritesResponse, metrics: metrics)
            placement = routing.placement
            routed = routing.routed
            state = .routed
            flow.placed()
            return .route(routing.decision)
        } catch {
            // Whatever rules the rest out: there was one that should have worked.
            return reject(
                limits.failed.isEmpty
                    ? error.apiError : .badGateway("No model server could be reached."))
        }
    }

    private func reject(_ error: APIError) -> Step {
        state = .ended
        consultation.abandon()
        leaveFlow(now: .now)
        (metrics ?? router.metrics.model(model)).error(error.status)
        return .reject(error.shaped(as: errorShape))
    }

    // MARK: - Flow control

    /// The ticket that may have something to say and that nobody listens to; to be asked for
    /// after every step. When it calls, ``signalled()`` is to be called.
    public var unheardTicket: FlowTicket? {
        flow.unheardTicket(isWaiting: state == .waiting)
    }

    /// Flow control has decided about the request: it goes on, or is rejected. A request may be
    /// rejected while it is served, and even after its response has begun.
    public func signalled() -> Step {
        guard state != .ended else { return .more }
        switch flow.takeSignal() {
        case .dispatched where state == .waiting: return request.map(proceed) ?? .more
        case .rejected(let rejection):
            release()
            return reject(rejection.error)
        default: return .more
        }
    }

    private func leaveFlow(now: MonotonicTime) {
        flow.leave(usage: tokenUsage, now: now)
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
