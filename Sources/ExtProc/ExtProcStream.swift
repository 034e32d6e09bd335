internal import Core
internal import Net
internal import Relay
internal import RequestPipeline
internal import Telemetry

/// One stream of the data plane: carries messages between its socket and its session.
final class ExtProcStream: ServerExchangeDelegate {
    private let exchange: ServerExchange
    private let session: ExtProcSession
    private let loop: LoopResources
    private let metrics: StreamMetrics
    private let began = MonotonicTime.now
    private var reader: GRPCFrameReader
    /// A question that must be answered before the decision.
    private var asking: BufferedRequest?
    private var isWritable = true
    private var status: GRPCStatus?

    init(
        _ exchange: ServerExchange, session: ExtProcSession, loop: LoopResources,
        maximumMessageBytes: Int, metrics: StreamMetrics
    ) {
        self.exchange = exchange
        self.session = session
        self.loop = loop
        self.metrics = metrics
        reader = GRPCFrameReader(maximumMessageBytes: maximumMessageBytes)
        metrics.inFlight.increment()
        exchange.respondGRPC()
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        do {
            try reader.feed(body) { message in
                guard status == nil else { return }
                perform(session.received(message, to: &loop.writer))
            }
        } catch {
            end(.invalidArgument(error.description))
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        end(.ok)
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        isWritable = true
        flush()
        if isWritable { exchange.resumeReading() }
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        asking?.cancel()
        // Envoy resets its streams when it is done with them.
        let isComplete = session.isComplete
        session.closed()
        let status = self.status ?? (isComplete ? .ok : .cancelled("the data plane went away"))
        metrics.ended(status, after: .now - began)
    }

    private func perform(_ action: ExtProcSession.Action) {
        flush()
        switch action {
        case .proceed: break
        case .tokenize(let question): tokenize(question)
        case .consult(let question): consult(question)
        case .end(let status): end(status)
        }
        listen()
    }

    /// Comes back to this loop when flow control has decided about the request.
    private func listen() {
        guard let ticket = session.unheardTicket else { return }
        let this = WeakOnLoop(self, on: exchange.loop)
        ticket.listen { this.perform { $0.perform($0.session.signalled(to: &$0.loop.writer)) } }
    }

    private func tokenize(_ question: TokenizeRequest) {
        let head = HTTPRequestHead(
            method: "POST", target: question.path, headers: ["content-type": "application/json"])
        asking = BufferedRequest(
            head, to: question.engines, body: question.body, through: loop.client,
            maximumResponseBytes: question.maximumResponseBytes, timeout: question.timeout
        ) { [unowned self] result in
            asking = nil
            let tokens = result.mapError { APIError(upstream: $0) }
                .flatMap { TokenizeRequest.tokens(status: $0.status, body: $0.body) }
            perform(session.tokenized(tokens, to: &loop.writer))
        }
    }

    private func consult(_ question: ServiceQuestion) {
        asking = BufferedRequest(question, through: loop.client) { [unowned self] outcome in
            asking = nil
            perform(session.consulted(outcome, to: &loop.writer))
        }
    }

    /// Sends what was written, and of the request body what the data plane takes now.
    private func flush() {
        if !loop.writer.frames.isEmpty { send() }
        while session.hasOutgoingBody, isWritable {
            session.writeBody(to: &loop.writer)
            send()
        }
    }

    private func send() {
        if !exchange.write(loop.writer.frames) {
            isWritable = false
            exchange.pauseReading()
        }
        loop.writer.removeAll()
    }

    private func end(_ status: GRPCStatus) {
        guard self.status == nil else { return }
        self.status = status
        exchange.finishGRPC(status)
    }
}

/// What the streams of one loop share.
final class LoopResources: @unchecked Sendable {
    // Proof for the annotation: `writer` is touched on the loop of the client alone, and is empty
    // between events; `client` never changes.

    /// Asks engines for tokens.
    let client: HTTPClient
    /// Holds what is about to be sent.
    var writer = ProcessingResponseWriter()

    init(client: HTTPClient) {
        self.client = client
    }
}

/// What `/metrics` shows of the streams.
struct StreamMetrics: Sendable {
    let inFlight: Gauge
    private let duration: Histogram
    private let streams: Family<Counter>
    private let succeeded: Counter

    init(_ registry: MetricsRegistry) {
        inFlight = registry.gauge("llm_d_epp_extproc_streams_inflight", "Open ext-proc streams.")
        duration = registry.histogram(
            "llm_d_epp_extproc_stream_duration_seconds", "From a stream's begin to its end.",
            bounds: Buckets.requestSeconds)
        streams = registry.counters(
            "llm_d_epp_extproc_streams_total", "Ext-proc streams by gRPC status.",
            labels: ["code"])
        succeeded = streams.child("0")
    }

    func ended(_ status: GRPCStatus, after time: Duration) {
        inFlight.decrement()
        duration.observe(time)
        (status == .ok ? succeeded : streams.child(String(status.code))).increment()
    }
}
