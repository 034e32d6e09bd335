package import Core
package import Net
import Synchronization

/// A client of one server for tests.
package final class LoopbackClient: Sendable {
    private let client: HTTPClient
    private let address: SocketAddress

    /// Makes a client on the first loop of a group.
    package init(
        on group: EventLoopGroup, to address: SocketAddress, http2: Bool = false,
        tls: TLSClientContext? = nil
    ) {
        var configuration = HTTPClientConfiguration()
        configuration.http2 = http2
        configuration.tls = tls
        client = HTTPClient(on: group.loops[0], configuration: configuration)
        self.address = address
    }

    /// Sends a request.
    package func send(
        _ method: String, _ path: String, _ headers: HTTPHeaders = [:], body: String = ""
    ) -> LoopbackCall {
        let head = HTTPRequestHead(method: method, target: path, headers: headers)
        let call = LoopbackCall(on: client.loop)
        call.start(client, head, address, .bytes(Array(body.utf8)))
        return call
    }

    /// Starts a request whose body is written piece by piece.
    package func stream(
        _ method: String, _ path: String, _ headers: HTTPHeaders = [:], length: Int? = nil
    ) -> LoopbackCall {
        let head = HTTPRequestHead(method: method, target: path, headers: headers)
        let call = LoopbackCall(on: client.loop)
        call.start(client, head, address, .stream(length: length))
        return call
    }

    /// Sends a request and takes the whole response.
    package func fetch(
        _ method: String, _ path: String, _ headers: HTTPHeaders = [:], body: String = ""
    ) async throws -> LoopbackResponse {
        try await send(method, path, headers, body: body).response()
    }
}

/// A whole response.
package struct LoopbackResponse: Sendable {
    package var status: Int
    package var headers: HTTPHeaders
    package var body: String
}

/// A request of a ``LoopbackClient``, and what comes back.
package final class LoopbackCall: ClientExchangeDelegate, @unchecked Sendable {
    /// Something that came back.
    package enum Event: Sendable {
        case head(HTTPResponseHead)
        case body([UInt8])
        case end(trailers: HTTPHeaders?)
        case failed(NetError)
    }

    // Proof for the annotation: `exchange` and `onWritable` are touched on the loop alone; the rest
    // never changes or guards itself.
    private let loop: EventLoop
    private let events = Inbox<Event>()
    private var exchange: ClientExchange?
    private var onWritable: (() -> Void)?
    private let sent = Atomic<Int>(0)

    fileprivate init(on loop: EventLoop) {
        self.loop = loop
    }

    fileprivate func start(
        _ client: HTTPClient, _ head: HTTPRequestHead, _ address: SocketAddress, _ body: RequestBody
    ) {
        loop.execute { [self] in
            exchange = client.start(head, to: address, body: body, delegate: self)
        }
    }

    /// The next event.
    package func next() async throws -> Event { try await events.next() }

    /// The head of the response.
    package func head() async throws -> HTTPResponseHead {
        switch try await next() {
        case .head(let head): return head
        case .failed(let error): throw error
        case .body, .end: throw NetError.protocolViolation("no head")
        }
    }

    /// Body bytes until they end in `text`.
    package func body(until text: String) async throws -> String {
        var body = ""
        while !body.hasSuffix(text) {
            switch try await next() {
            case .body(let part): body += String(decoding: part, as: UTF8.self)
            case .failed(let error): throw error
            case .head, .end: throw NetError.protocolViolation("ended with '\(body)'")
            }
        }
        return body
    }

    /// The whole response.
    package func response() async throws -> LoopbackResponse {
        let head = try await head()
        var body: [UInt8] = []
        while true {
            switch try await next() {
            case .body(let part): body += part
            case .end:
                return LoopbackResponse(
                    status: head.status, headers: head.headers,
                    body: String(decoding: body, as: UTF8.self))
            case .failed(let error): throw error
            case .head: throw NetError.protocolViolation("a second head")
            }
        }
    }

    /// What comes until the end or a failure.
    package func rest() async throws -> (body: String, failure: NetError?) {
        var body: [UInt8] = []
        while true {
            switch try await next() {
            case .body(let part): body += part
            case .end: return (String(decoding: body, as: UTF8.self), nil)
            case .failed(let error): return (String(decoding: body, as: UTF8.self), error)
            case .head: break
            }
        }
    }

    /// Sends a piece of a streamed body.
    package func write(_ text: String) { write(Array(text.utf8)) }

    /// Sends a piece of a streamed body.
    package func write(_ bytes: [UInt8]) {
        loop.execute { [self] in exchange?.write(bytes) }
    }

    /// How many bytes ``flood(_:)`` could write so far.
    package var sentCount: Int { sent.load(ordering: .relaxed) }

    /// Writes `total` bytes of a streamed body as fast as they are taken, then ends it.
    package func flood(_ total: Int) {
        loop.execute { [self] in
            onWritable = { [self] in
                let chunk = [UInt8](repeating: UInt8(ascii: "x"), count: 64 << 10)
                while sentCount < total {
                    sent.add(chunk.count, ordering: .relaxed)
                    if exchange?.write(chunk) == false { return }
                }
                exchange?.finish()
                onWritable = nil
            }
            onWritable?()
        }
    }

    /// Ends a streamed body.
    package func finish() {
        loop.execute { [self] in exchange?.finish() }
    }

    /// Goes away.
    package func cancel() {
        loop.execute { [self] in exchange?.cancel() }
    }

    /// Stops reading.
    package func pause() {
        loop.execute { [self] in exchange?.pauseReading() }
    }

    /// Reads on.
    package func resume() {
        loop.execute { [self] in exchange?.resumeReading() }
    }

    package func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        events.put(.head(head))
    }

    package func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        events.put(.body(Array(body)))
    }

    package func exchangeWritable(_ exchange: ClientExchange) {
        onWritable?()
    }

    package func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        events.put(.end(trailers: trailers))
    }

    package func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        events.put(.failed(error))
    }
}
