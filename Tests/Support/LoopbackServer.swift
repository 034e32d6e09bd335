package import Core
package import Net
import Synchronization

/// A server on loopback whose requests a test takes and answers one by one.
package final class LoopbackServer: Sendable {
    /// Where it listens.
    package let address: SocketAddress
    private let server: HTTPServer
    private let requests: Inbox<LoopbackRequest>

    /// Starts to listen on an address of its own. With `streams` a request is handed over with its head,
    /// its body unread; otherwise when it is complete.
    package init(on group: EventLoopGroup, streams: Bool = false) throws {
        let requests = Inbox<LoopbackRequest>()
        server = try HTTPServer.listen(on: group, at: .ownLoopback()) {
            let request = LoopbackRequest($0, inbox: requests, streams: streams)
            if streams {
                $0.pauseReading()
                requests.put(request)
            }
            return request
        }
        address = server.address
        self.requests = requests
    }

    /// The next request.
    package func next() async throws -> LoopbackRequest { try await requests.next() }

    /// Whether requests wait to be taken.
    package var hasRequests: Bool { requests.count > 0 }

    /// Stops at once: what is open is broken off.
    package func stop() async { await server.drain(within: .zero) }
}

/// A request at a ``LoopbackServer``.
package final class LoopbackRequest: ServerExchangeDelegate, @unchecked Sendable {
    // Proof for the annotation: `exchange` and `onWritable` are touched on the loop alone; the
    // rest never changes or guards itself.
    package let head: HTTPRequestHead
    private let exchange: ServerExchange
    private let inbox: Inbox<LoopbackRequest>
    private let streams: Bool
    private let received = Mutex<[UInt8]>([])
    private let ends = Inbox<ExchangeEnd>()
    private let completions = Inbox<Void>()
    private let sent = Atomic<Int>(0)
    private var onWritable: (() -> Void)?

    fileprivate init(_ exchange: ServerExchange, inbox: Inbox<LoopbackRequest>, streams: Bool) {
        self.exchange = exchange
        self.inbox = inbox
        self.streams = streams
        head = exchange.head
    }

    /// The body so far.
    package var body: String { String(decoding: received.withLock { $0 }, as: UTF8.self) }

    /// The bytes of the body so far.
    package var bodyCount: Int { received.withLock { $0.count } }

    /// How many bytes ``flood(_:)`` could write so far.
    package var sentCount: Int { sent.load(ordering: .relaxed) }

    /// Answers with a whole response.
    package func respond(_ status: Int, _ headers: HTTPHeaders = [:], _ body: String = "") {
        exchange.loop.execute { [self] in
            exchange.respond(HTTPResponseHead(status: status, headers: headers), text: body)
        }
    }

    /// Starts a response.
    package func begin(_ status: Int, _ headers: HTTPHeaders = [:]) {
        exchange.loop.execute { [self] in
            exchange.respond(HTTPResponseHead(status: status, headers: headers))
        }
    }

    /// Sends a piece of the response.
    package func write(_ text: String) {
        exchange.loop.execute { [self] in exchange.write(Array(text.utf8)) }
    }

    /// Ends the response.
    package func finish() {
        exchange.loop.execute { [self] in exchange.finish() }
    }

    /// Breaks the connection.
    package func abort() {
        exchange.loop.execute { [self] in exchange.abort() }
    }

    /// Reads the body of a request that was handed over with its head.
    package func readBody() {
        exchange.loop.execute { [self] in exchange.resumeReading() }
    }

    /// Writes `total` bytes as fast as they are taken, then ends the response.
    package func flood(_ total: Int) {
        exchange.loop.execute { [self] in
            onWritable = { [self] in
                let chunk = [UInt8](repeating: UInt8(ascii: "x"), count: 64 << 10)
                while sentCount < total {
                    sent.add(chunk.count, ordering: .relaxed)
                    if !exchange.write(chunk) { return }
                }
                exchange.finish()
                onWritable = nil
            }
            onWritable?()
        }
    }

    /// Returns when the body is complete.
    package func complete() async throws { try await completions.next() }

    /// How the exchange ended, once it did.
    package func end() async throws -> ExchangeEnd { try await ends.next() }

    package func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        received.withLock { $0.append(contentsOf: body) }
    }

    package func exchangeReceivedEnd(_ exchange: ServerExchange) {
        completions.put(())
        if !streams { inbox.put(self) }
    }

    package func exchangeWritable(_ exchange: ServerExchange) {
        onWritable?()
    }

    package func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        onWritable = nil
        ends.put(reason)
    }
}
