package import Core
package import Net
internal import Relay
package import RequestPipeline

/// One HTTP exchange of the data plane as an external processor sees it: messages in, messages
/// out. Knows no socket. Belongs to one thread.
///
/// Nothing is answered before the request is complete; then come the header response with the
/// decision and the whole body, and everything of the response is answered as it comes. The only
/// processing mode is FULL_DUPLEX_STREAMED both ways, with headers and trailers sent.
package final class ExtProcSession {
    /// What to do after an event, besides sending what was written.
    package enum Action {
        /// Wait for the next message.
        case proceed
        /// Find the tokens of the prompt; the answer goes to ``tokenized(_:to:)``.
        case tokenize(TokenizeRequest)
        /// Ask a service; the answer goes to ``consulted(_:to:)``.
        case consult(ServiceQuestion)
        /// End the call.
        case end(GRPCStatus)
    }

    private enum State {
        case awaitingHeaders
        case receiving
        case deciding
        case awaitingResponse
        case responding
        case ended
    }

    private let router: Router
    private let ignoresSubset: Bool
    private var state = State.awaitingHeaders
    private var request: RequestSession?
    private var headers = RequestHeaders()
    /// How the request ends: with its headers, its body or its trailers.
    private var hasBody = true
    private var hasTrailers = false
    /// What of the request body is still to be written.
    private var outgoing: (body: [UInt8], offset: Int)?

    /// Makes a session for one stream. With `ignoresSubset` the data plane's subset hint is not
    /// looked at.
    package init(router: Router, ignoresSubset: Bool) {
        self.router = router
        self.ignoresSubset = ignoresSubset
    }

    /// Whether ``writeBody(to:)`` has something to write.
    package var hasOutgoingBody: Bool { outgoing != nil }

    /// Whether nothing more is expected.
    package var isComplete: Bool { state == .ended }

    /// Takes a message; it is not kept.
    package func received(
        _ bytes: UnsafeRawBufferPointer, to writer: inout ProcessingResponseWriter
    ) -> Action {
        do {
            return try handle(ProcessingRequest(decoding: bytes), to: &writer)
        } catch {
            request?.completed(.failed(.badRequest(error.description)))
            state = .ended
            return .end(.invalidArgument(error.description))
        }
    }

    /// The answer to ``Action/tokenize(_:)``.
    package func tokenized(
        _ result: Result<[UInt32], APIError>, to writer: inout ProcessingResponseWriter
    ) -> Action {
        guard state == .deciding, let request else { return .proceed }
        return perform(request.tokenized(result), to: &writer)
    }

    /// The answer to ``Action/consult(_:)``.
    package func consulted(
        _ outcome: ServiceOutcome, to writer: inout ProcessingResponseWriter
    ) -> Action {
        guard state == .deciding, let request else { return .proceed }
        return perform(request.consulted(outcome), to: &writer)
    }

    /// The ticket that nobody listens to, to be asked for after every action. When it calls,
    /// ``signalled(to:)`` is to be called.
    package var unheardTicket: FlowTicket? { request?.unheardTicket }

    /// Flow control has decided about the request.
    package func signalled(to writer: inout ProcessingResponseWriter) -> Action {
        guard state != .ended, let request else { return .proceed }
        let step = request.signalled()
        if state == .responding {
            // A response has begun: it can be broken off. If it is the data plane's own, there is
            // nobody left to route.
            guard case .reject = step else { return .proceed }
        }
        return perform(step, to: &writer)
    }

    /// Writes the next chunk of the request body. Called while ``hasOutgoingBody``, as fast as the
    /// data plane takes it.
    package func writeBody(to writer: inout ProcessingResponseWriter) {
        guard let (body, offset) = outgoing else { return }
        let end = min(offset + ProcessingResponseWriter.maximumChunkBytes, body.count)
        let isLast = end == body.count
        body.withUnsafeBytes { bytes in
            writer.body(
                .request, UnsafeRawBufferPointer(rebasing: bytes[offset..<end]),
                endOfStream: isLast && !hasTrailers)
        }
        outgoing = isLast ? nil : (body, end)
        if isLast, hasTrailers { writer.trailers(.request) }
    }

    /// The stream is gone, for whatever reason.
    package func closed() {
        request?.completed(.clientGone)
        state = .ended
        outgoing = nil
    }

    private func handle(
        _ message: ProcessingRequest, to writer: inout ProcessingResponseWriter
    ) throws(ProtobufError) -> Action {
        switch (message.event, state) {
        case (.requestHeaders(let list, let endOfStream), .awaitingHeaders):
            return try begin(message, list, endOfStream: endOfStream, to: &writer)
        case (.requestBody(let bytes, let endOfStream), .receiving):
            guard let request else { return .proceed }
            let action = perform(request.received(bytes), to: &writer)
            guard endOfStream, state == .receiving else { return action }
            return perform(request.receivedEnd(), to: &writer)
        case (.requestTrailers, .receiving):
            guard let request else { return .proceed }
            hasTrailers = true
            return perform(request.receivedEnd(), to: &writer)
        // A response before the decision is the data plane's own, such as to a timeout.
        case (.responseHeaders(let list, let endOfStream), .receiving),
            (.responseHeaders(let list, let endOfStream), .deciding),
            (.responseHeaders(let list, let endOfStream), .awaitingResponse):
            state = .responding
            let changes = request?.responseStarted(
                status: try list.status(),
                servedBy: try message.servedEndpoint().flatMap { try? SocketAddress(parsing: $0) })
            writer.headers(.response, try responseMutations(list) + (changes ?? []))
            if endOfStream { finish() }
        case (.responseBody(let bytes, let endOfStream), .responding):
            request?.responseBody(bytes)
            let attributes = endOfStream ? request?.reportedAttributes ?? [] : []
            if let request, request.rewritesResponse {
                var body: [UInt8] = []
                body.reserveCapacity(bytes.count + 256)
                request.rewriteResponse(bytes) { body.append(contentsOf: $0) }
                if endOfStream { request.finishResponse { body.append(contentsOf: $0) } }
                body.withUnsafeBytes {
                    writer.body(
                        .response, $0, endOfStream: endOfStream, attributes: attributes)
                }
            } else {
                writer.body(.response, bytes, endOfStream: endOfStream, attributes: attributes)
            }
            if endOfStream { finish() }
        case (.responseTrailers, .responding):
            request?.finishResponse { writer.body(.response, $0, endOfStream: false) }
            writer.trailers(.response, attributes: request?.reportedAttributes ?? [])
            finish()
        // After a response of the router's own, or of the data plane's, parts of the request may
        // still be on their way.
        case (.requestBody, .ended), (.requestTrailers, .ended), (.requestBody, .responding),
            (.requestTrailers, .responding):
            break
        default: throw ProtobufError(problem: "comes out of order")
        }
        return .proceed
    }

    private func begin(
        _ message: ProcessingRequest, _ list: HeaderList, endOfStream: Bool,
        to writer: inout ProcessingResponseWriter
    ) throws(ProtobufError) -> Action {
        headers = try RequestHeaders(list)
        let path = headers.value(ofHeader: ":path") ?? "/"
        let request = RequestSession(
            router: router, method: headers.value(ofHeader: ":method") ?? "GET",
            path: path[..<(path.utf8.firstIndex(of: UInt8(ascii: "?")) ?? path.endIndex)],
            headers: headers)
        if !ignoresSubset, let hint = try message.subsetHint() {
            // What is no address names no endpoint.
            request.subset = hint.compactMap { try? SocketAddress(parsing: $0) }
        }
        self.request = request
        hasBody = !endOfStream
        state = .receiving
        return perform(request.begin(endOfBody: endOfStream), to: &writer)
    }

    private func perform(_ step: Step, to writer: inout ProcessingResponseWriter) -> Action {
        switch step {
        case .more: return .proceed
        case .wait:
            state = .deciding
            return .proceed
        case .tokenize(let question):
            state = .deciding
            return .tokenize(question)
        case .consult(let question):
            state = .deciding
            return .consult(question)
        case .route(let decision):
            state = .awaitingResponse
            route(decision, to: &writer)
            return .proceed
        case .answer(let response):
            state = .ended
            answer(
                status: response.status, contentType: response.contentType, body: response.body,
                to: &writer)
            return .end(.ok)
        case .reject(let error):
            state = .ended
            outgoing = nil
            reject(error, to: &writer)
            return .end(.ok)
        }
    }

    private func route(_ decision: Decision, to writer: inout ProcessingResponseWriter) {
        var destination = decision.endpoint.address
        for fallback in decision.fallbacks { destination += ",\(fallback.address)" }
        var mutations = decision.headers
        mutations.reserveCapacity(mutations.count + 4)
        mutations.append(.set(name: "x-gateway-destination-endpoint", value: destination))
        if let trace = traceMutations(of: headers) { mutations += trace }
        if hasBody, let body = request?.body {
            mutations.append(.set(name: "content-length", value: String(body.count)))
            outgoing = (body, 0)
            self.request?.settle()
        }
        headers.removeOwned(sparing: &mutations)
        writer.headers(.request, mutations, destination: destination)
    }

    private func reject(_ error: APIError, to writer: inout ProcessingResponseWriter) {
        answer(
            status: error.status, contentType: "application/json", body: error.body,
            further: error.headers.map { .set(name: $0.name, value: $0.value) }, to: &writer)
    }

    /// Ends the exchange with a response of the router's own.
    private func answer(
        status: Int, contentType: String, body: String, further: [HeaderMutation] = [],
        to writer: inout ProcessingResponseWriter
    ) {
        var headers: [HeaderMutation] = [.set(name: "content-type", value: contentType)]
        if let request {
            headers.append(.set(name: "x-request-id", value: request.requestID))
        }
        writer.immediate(status: status, headers: headers + further, body: body)
    }

    /// Changes to the headers of the response.
    private func responseMutations(_ list: HeaderList) throws(ProtobufError) -> [HeaderMutation] {
        var mutations: [HeaderMutation] = [.set(name: "x-went-into-resp-headers", value: "true")]
        if request?.rewritesResponse == true { mutations.append(.remove(name: "content-length")) }
        try list.forEach { name, _ in
            guard name.starts(with: "x-".utf8) else { return }
            let text = String(decoding: name, as: UTF8.self)
            if RouterHeaders.owned.contains(text) { mutations.append(.remove(name: text)) }
        }
        return mutations
    }

    private func finish() {
        request?.completed(.finished)
        state = .ended
    }
}
