import Core
import Net
import Synchronization
import Testing

@Suite(.serialized) struct HTTP2Tests {
    static func client(_ configure: (inout HTTPClientConfiguration) -> Void = { _ in }) throws
        -> TestClient
    {
        try TestClient {
            $0.http2 = true
            configure(&$0)
        }
    }

    @Test func requestAndResponse() throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { Recorder($0, inbox) }
        let client = try Self.client()
        let response = try client.start(
            "POST", "/x?y", to: server.address, body: .bytes([1, 2, 3])
        )
        .response()
        #expect(response.status == 200)
        #expect(response.body == Array("ok".utf8))
        guard case .head(let head) = try inbox.next() else { return #expect(Bool(false)) }
        #expect(head.version == .http2)
        #expect(head.method == "POST")
        #expect(head.target == "/x?y")
        #expect(head.authority == server.address.description)
        #expect(try inbox.next() == .body(3))
        #expect(try inbox.next() == .end)
        #expect(try inbox.next() == .closed(.complete))
    }

    @Test func bothVersionsShareAPort() throws {
        let server = try TestServer(handler: ServerTests.ok)
        let old = try RawSocket(to: server.address)
        // The start of the preface, then something else.
        try old.send("PR")
        try old.send("OPFIND /p HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(try old.receive(until: "/p").hasPrefix("HTTP/1.1 200"))
        let client = try Self.client()
        #expect(try client.start(to: server.address).response().status == 200)
    }

    @Test func trailersFollowTheBody() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 200))
            exchange.write([9])
            exchange.finish(trailers: ["x-sum": "9"])
            return nil
        }
        let client = try Self.client()
        let response = try client.start(to: server.address).response()
        #expect(response.body == [9])
        #expect(response.trailers == ["x-sum": "9"])
    }

    @Test func headHasNoBody() throws {
        let server = try TestServer(handler: ServerTests.ok)
        let client = try Self.client()
        let response = try client.start("HEAD", to: server.address).response()
        #expect(response.status == 200)
        #expect(response.body.isEmpty)
    }

    @Test func manyRequestsShareOneConnection() throws {
        let peers = Mutex<Set<SocketAddress>>([])
        let server = try TestServer { exchange in
            if let peer = exchange.peer { peers.withLock { _ = $0.insert(peer) } }
            exchange.respond(HTTPResponseHead(status: 200), text: exchange.head.target)
            return nil
        }
        let client = try Self.client()
        let inboxes = (0..<1000).map { client.start("GET", "/\($0)", to: server.address) }
        for (index, inbox) in inboxes.enumerated() {
            #expect(try inbox.response().body == Array("/\(index)".utf8))
        }
        #expect(peers.withLock(\.count) == 1)
    }

    @Test func largeBodiesGoBothWays() throws {
        let server = try TestServer { Echo($0) }
        let client = try Self.client()
        let body = (0..<(8 << 20)).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let response = try client.start("POST", to: server.address, body: .bytes(body)).response()
        #expect(response.body == body)
    }

    @Test func pausedReaderHoldsOneStreamAlone() throws {
        let server = try TestServer { exchange in
            if exchange.head.path == "/small" {
                exchange.respond(HTTPResponseHead(status: 200), text: "small")
                return nil
            }
            return Writer(exchange, total: 32 << 20)
        }
        let client = try Self.client()
        let exchanges = Inbox<@Sendable () -> Void>()
        let paused = client.start(to: server.address) { exchange in
            nonisolated(unsafe) let exchange = exchange
            exchange.pauseReading()
            exchanges.put { exchange.resumeReading() }
        }
        let resume = try exchanges.next()
        #expect(try paused.next() == .responded(200))
        // Others go on, and the paused one gets no more than its window.
        for _ in 0..<20 {
            let small = try client.start("GET", "/small", to: server.address).response()
            #expect(small.body.count == 5)
        }
        var received = 0
        while !paused.isEmpty {
            if case .body(let bytes) = try paused.next() { received += bytes.count }
        }
        #expect(received <= 256 << 10)
        client.loop.execute { resume() }
        #expect(try received + paused.response().body.count == 32 << 20)
    }

    @Test func pausedServerHoldsTheUpload() throws {
        let inbox = Inbox<ServerEvent>()
        let exchanges = Inbox<@Sendable () -> Void>()
        let server = try TestServer { exchange in
            nonisolated(unsafe) let exchange = exchange
            exchange.pauseReading()
            exchanges.put { exchange.loop.execute { exchange.resumeReading() } }
            return Recorder(exchange, inbox)
        }
        let client = try Self.client()
        let part = [UInt8](repeating: 5, count: 1 << 20)
        let written = Inbox<Int>()
        let response = client.start("PUT", to: server.address, body: .stream(length: nil)) {
            exchange in
            var count = 1
            while exchange.write(part) { count += 1 }
            exchange.finish()
            written.put(count)
        }
        let total = try written.next() << 20
        let resume = try exchanges.next()
        _ = try inbox.next()
        resume()
        var received = 0
        while true {
            let event = try inbox.next()
            if case .body(let count) = event { received += count }
            if event == .end { break }
        }
        #expect(received == total)
        #expect(try response.response().status == 200)
    }

    @Test func cancelResetsTheStreamAlone() throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            if exchange.head.path == "/hang" { recorder.onEnd = { _ in } }
            return recorder
        }
        let client = try Self.client()
        let cancels = Inbox<@Sendable () -> Void>()
        let hanging = client.start("GET", "/hang", to: server.address) { exchange in
            nonisolated(unsafe) let exchange = exchange
            cancels.put { exchange.cancel() }
        }
        _ = try inbox.next()
        #expect(try inbox.next() == .end)
        let cancel = try cancels.next()
        client.loop.execute { cancel() }
        #expect(try inbox.next() == .closed(.aborted(.reset)))
        #expect(hanging.isEmpty)
        #expect(try client.start("GET", "/", to: server.address).response().status == 200)
    }

    @Test func abortResetsTheStreamAlone() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 200))
            if exchange.head.path == "/cut" {
                exchange.write([1])
                exchange.abort()
                return Echo.silent
            }
            exchange.finish()
            return nil
        }
        let client = try Self.client()
        let cut = client.start("GET", "/cut", to: server.address)
        #expect(throws: NetError.reset) { try cut.response() }
        #expect(try client.start("GET", "/", to: server.address).response().status == 200)
    }

    @Test func earlyResponseStopsTheUpload() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 413), text: "no")
            return nil
        }
        let client = try Self.client()
        let part = [UInt8](repeating: 5, count: 1 << 20)
        let response = try client.start("PUT", to: server.address, body: .stream(length: nil)) {
            exchange in
            while exchange.write(part) {}
        }.response()
        #expect(response.status == 413)
        #expect(response.body == Array("no".utf8))
    }

    @Test func tooLargeHeaderIs431() throws {
        var configuration = HTTPServerConfiguration()
        configuration.maximumHeaderBytes = 1000
        let server = try TestServer(configuration, handler: ServerTests.ok)
        let client = try Self.client()
        let inbox = Inbox<ClientEvent>()
        client.loop.execute { [client = client.client] in
            client.start(
                HTTPRequestHead(
                    method: "GET", target: "/",
                    headers: ["x": String(repeating: "x", count: 2000)]),
                to: server.address, delegate: ClientRecorder(inbox))
        }
        #expect(try inbox.response().status == 431)
    }

    /// Envoy resets nearly every stream of its external processors.
    @Test func allowedResetsDoNotEndTheConnection() throws {
        let inbox = Inbox<ServerEvent>()
        var configuration = HTTPServerConfiguration()
        configuration.http2ResetRateLimit = (burst: .max, perSecond: .max)
        let server = try TestServer(configuration) { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        let client = try Self.client()
        for _ in 0..<40 {
            let cancels = Inbox<@Sendable () -> Void>()
            for _ in 0..<50 {
                _ = client.start(to: server.address) { exchange in
                    nonisolated(unsafe) let exchange = exchange
                    cancels.put { exchange.cancel() }
                }
            }
            for _ in 0..<50 { while try inbox.next() != .end {} }
            for _ in 0..<50 {
                let cancel = try cancels.next()
                client.loop.execute { cancel() }
            }
            var closed = 0
            while closed < 50 {
                if case .closed(let reason) = try inbox.next() {
                    #expect(reason == .aborted(.reset))
                    closed += 1
                }
            }
        }
    }

    /// Whether the client resets its requests or makes the server do so.
    @Test(arguments: [
        RawFrame(type: .reset, stream: 0, payload: [0, 0, 0, 8]),
        // A window that overflows.
        RawFrame(type: .windowUpdate, stream: 0, payload: [0x7F, 0xFF, 0xFF, 0xFF]),
    ])
    func spoiledRequestsEndTheConnection(spoiling: RawFrame) throws {
        var configuration = HTTPServerConfiguration()
        configuration.http2ResetRateLimit = (burst: 20, perSecond: 0)
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer(configuration) { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        func spoil(_ streams: Range<Int>, _ socket: RawSocket) throws {
            for index in streams {
                var frame = spoiling
                frame.stream = UInt8(index * 2 + 1)
                try socket.send(RawFrame.get(stream: frame.stream).bytes + frame.bytes)
                #expect(try inbox.next() != .end)
                #expect(try inbox.next() == .end)
                guard case .closed(.aborted) = try inbox.next() else {
                    return #expect(Bool(false))
                }
            }
        }
        let socket = try RawSocket(to: server.address)
        try socket.send(RawFrame.preface)
        try spoil(0..<20, socket)
        // So many are forgiven: the next request is answered.
        let other = try RawSocket(to: server.address)
        try other.send(RawFrame.preface)
        try other.send(RawFrame(type: .ping, stream: 0, payload: Array("01234567".utf8)).bytes)
        try other.receive(until: "01234567")
        try socket.send(RawFrame(type: .ping, stream: 0, payload: Array("76543210".utf8)).bytes)
        try socket.receive(until: "76543210")
        try spoil(20..<21, socket)
        let end = try socket.receiveEnd()
        let goAway = try #require(end.last { $0.type == .goAway })
        #expect(goAway.payload[4..<8] == [0, 0, 0, 11])
        try other.send(RawFrame(type: .ping, stream: 0, payload: Array("abcdefgh".utf8)).bytes)
        try other.receive(until: "abcdefgh")
    }

    @Test func headWithoutEndTimesOut() throws {
        var configuration = HTTPServerConfiguration()
        configuration.headerTimeout = .milliseconds(100)
        let server = try TestServer(configuration, handler: ServerTests.ok)
        let socket = try RawSocket(to: server.address)
        var head = RawFrame.get(stream: 1)
        head.flags = 0
        try socket.send(RawFrame.preface + head.bytes)
        // As long as it waits, it answers nothing else.
        _ = try socket.receiveEnd()
    }

    @Test func cookiePiecesAreJoined() async throws {
        let server = try TestServer { exchange in
            let cookies = exchange.head.headers.values(of: "cookie")
            exchange.respond(HTTPResponseHead(status: 200), text: cookies.joined(separator: "|"))
            return nil
        }
        let client = try Self.client()
        let response = try await client.client.send(
            HTTPRequestHead(
                method: "GET", target: "/",
                headers: ["cookie": "a=b", "x": "y", "cookie": "c=d", "cookie": "e=f"]),
            to: server.address)
        #expect(String(decoding: response.body, as: UTF8.self) == "a=b; c=d; e=f")
        #expect(response.head.headers.values(of: "date").count == 1)
    }

    /// A server that breaks the protocol has not completed its response.
    @Test func cutResponseIsNotComplete() throws {
        let server = try RawServer()
        let client = try Self.client()
        let inbox = client.start("POST", to: server.address, body: .bytes(Array("hello".utf8)))
        let socket = try server.accept()
        try socket.send(RawFrame(type: .settings, stream: 0).bytes)
        try socket.receive(until: "hello")
        try socket.send(RawFrame(type: .headers, flags: 4, stream: 1, payload: [0x88]).bytes)
        #expect(try inbox.next() == .responded(200))
        try socket.send(RawFrame(type: .data, stream: 0, payload: [1]).bytes)
        guard case .failed(.protocolViolation) = try inbox.next() else {
            return #expect(Bool(false))
        }
    }

    @Test func idleTimeoutEndsOneStream() throws {
        let inbox = Inbox<ServerEvent>()
        var configuration = HTTPServerConfiguration()
        configuration.idleTimeout = .milliseconds(100)
        let server = try TestServer(configuration) { Recorder($0, inbox) }
        let client = try Self.client()
        // A busy machine may keep a request from coming before its connection counts as idle.
        var stalled = Inbox<ClientEvent>()
        var event: ServerEvent?
        for _ in 0..<30 where event == nil {
            stalled = client.start("POST", to: server.address, body: .stream(length: nil)) {
                $0.write([1])
            }
            event = try? inbox.next(within: 2)
        }
        #expect(try inbox.next() == .body(1))
        #expect(try inbox.next() == .closed(.aborted(.timeout(.idle))))
        #expect(throws: NetError.reset) { try stalled.response() }
    }

    @Test func drainLetsStreamsFinish() async throws {
        let inbox = Inbox<ServerEvent>()
        let release = Inbox<@Sendable () -> Void>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { exchange in
                nonisolated(unsafe) let exchange = exchange
                release.put {
                    exchange.loop.execute {
                        exchange.respond(HTTPResponseHead(status: 200), text: "done")
                    }
                }
            }
            return recorder
        }
        let client = try Self.client()
        let running = client.start(to: server.address)
        let finish = try release.next()
        async let drained: Void = server.server.drain(within: .seconds(patience))
        // The listener is gone before the connections are.
        while (try? RawSocket(to: server.address)) != nil { await Task.yield() }
        finish()
        #expect(try running.response().body == Array("done".utf8))
        await drained
    }

    @Test func serverDeathFailsEveryStream() throws {
        let inbox = Inbox<ServerEvent>()
        var server: TestServer? = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        let address = try #require(server?.address)
        let client = try Self.client()
        let inboxes = (0..<5).map { _ in client.start(to: address) }
        for _ in inboxes { while try inbox.next() != .end {} }
        server = nil
        for inbox in inboxes { #expect(throws: NetError.self) { try inbox.response() } }
    }
}

/// A frame by hand (RFC 9113 section 4.1).
struct RawFrame: Sendable {
    enum Kind: UInt8 {
        case data, headers, priority, reset, settings, push, ping, goAway, windowUpdate
    }

    var type: Kind
    var flags: UInt8 = 0
    var stream: UInt8
    var payload: [UInt8] = []

    /// What a client begins with.
    static let preface =
        Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + RawFrame(type: .settings, stream: 0).bytes

    /// `GET /` of authority `a`, complete.
    static func get(stream: UInt8) -> RawFrame {
        RawFrame(
            type: .headers, flags: 5, stream: stream,
            payload: [0x82, 0x84, 0x86, 0x41, 1, UInt8(ascii: "a")])
    }

    var bytes: [UInt8] {
        let count = payload.count
        return [UInt8(count >> 16), UInt8(count >> 8 & 255), UInt8(count & 255), type.rawValue]
            + [flags, 0, 0, 0, stream] + payload
    }
}

extension RawSocket {
    /// The frames up to the end of the connection.
    fileprivate func receiveEnd() throws -> [RawFrame] {
        var bytes: [UInt8] = []
        while true {
            let more = try receive()
            if more.isEmpty { break }
            bytes += more
        }
        var frames: [RawFrame] = []
        var rest = bytes[...]
        while rest.count >= 9 {
            let head = Array(rest.prefix(9))
            let count = Int(head[0]) << 16 | Int(head[1]) << 8 | Int(head[2])
            if let type = RawFrame.Kind(rawValue: head[3]) {
                frames.append(
                    RawFrame(
                        type: type, flags: head[4], stream: head[8],
                        payload: Array(rest.dropFirst(9).prefix(count))))
            }
            rest = rest.dropFirst(9 + count)
        }
        return frames
    }
}

/// Writes so many bytes, as fast as they are taken.
private final class Writer: ServerExchangeDelegate {
    private var left: Int
    private let part = [UInt8](repeating: 7, count: 64 << 10)

    init(_ exchange: ServerExchange, total: Int) {
        left = total
        exchange.respond(HTTPResponseHead(status: 200))
        exchangeWritable(exchange)
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        while left > 0 {
            let count = min(left, part.count)
            left -= count
            if !exchange.write(Array(part.prefix(count))) { return }
        }
        exchange.finish()
    }
}

extension Echo {
    /// Does nothing at all.
    static var silent: any ServerExchangeDelegate {
        final class Silent: ServerExchangeDelegate {}
        return Silent()
    }
}
