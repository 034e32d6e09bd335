import Core
import Foundation
import Net
import Testing

@Suite(.serialized) struct ServerTests {
    static let ok: HTTPServerHandler = { exchange in
        exchange.respond(HTTPResponseHead(status: 200), text: exchange.head.target)
        return nil
    }

    /// A server that reports what happens and answers at the end of the request.
    static func recording(
        _ configuration: HTTPServerConfiguration = HTTPServerConfiguration()
    ) throws -> (TestServer, Inbox<ServerEvent>) {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer(configuration) { Recorder($0, inbox) }
        return (server, inbox)
    }

    @Test func requestHeadArrivesWhole() throws {
        let (server, inbox) = try Self.recording()
        let socket = try RawSocket(to: server.address)
        try socket.send(
            "POST /v1/x?a=b HTTP/1.1\r\nHost: llm:1\r\nX-One:  1 \r\nx-one: 2\r\nContent-Length: 0\r\n\r\n"
        )
        guard case .head(let head) = try inbox.next() else { return #expect(Bool(false)) }
        #expect(head.method == "POST")
        #expect(head.path == "/v1/x")
        #expect(head.query == "a=b")
        #expect(head.authority == "llm:1")
        #expect(head.headers.values(of: "X-ONE") == ["1", "2"])
        #expect(head.headers[first: "host"] == nil)
        #expect(head.version == .http1_1)
        #expect(try inbox.next() == .end)
        #expect(try inbox.next() == .closed(.complete))
        #expect(
            try socket.receive(until: "ok").undated
                == "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    }

    @Test func responsesAreDated() throws {
        let server = try TestServer { exchange in
            var head = HTTPResponseHead(status: 200)
            if exchange.head.path == "/own" { head.headers.append("Date", "then") }
            exchange.respond(head, text: "ok")
            return nil
        }
        let socket = try RawSocket(to: server.address)
        let format = DateFormatter()
        format.locale = Locale(identifier: "en_US_POSIX")
        format.dateFormat = "EEE, dd MMM yyyy HH:mm:ss zzz"
        let start = Date(timeIntervalSince1970: Date().timeIntervalSince1970.rounded(.down))
        for path in ["/", "/again"] {
            try socket.send("GET \(path) HTTP/1.1\r\nHost: a\r\n\r\n")
            let text = try socket.receive(until: "ok")
            let date = try #require(text.firstMatch(of: /\r\ndate: ([^\r]*)\r\n/)?.output.1)
            #expect((start...Date()).contains(try #require(format.date(from: String(date)))))
        }
        try socket.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(
            try socket.receive(until: "ok")
                == "HTTP/1.1 200 OK\r\nDate: then\r\ncontent-length: 2\r\n\r\nok")
        // So are those that no handler gave, and interim ones are not.
        try socket.send("GET / HTTP/1.1\r\n\r\n")
        #expect(try socket.receiveAll().contains("\r\ndate: "))
    }

    @Test func nilHandlerAnswers404() throws {
        let server = try TestServer { _ in nil }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        let text = try socket.receive(until: "}}")
        #expect(text.hasPrefix("HTTP/1.1 404 Not Found\r\n"))
        #expect(text.contains("\"code\":404"))
    }

    @Test func pipelinedRequestsAreAnsweredInOrder() throws {
        // Every second answer comes later, from a timer.
        let server = try TestServer { exchange in
            final class Later: ServerExchangeDelegate {}
            if exchange.head.target.hasSuffix("0") {
                exchange.respond(HTTPResponseHead(status: 200), text: exchange.head.target + ";")
                return nil
            }
            exchange.loop.schedule(after: .milliseconds(2)) {
                exchange.respond(HTTPResponseHead(status: 200), text: exchange.head.target + ";")
            }
            return Later()
        }
        let socket = try RawSocket(to: server.address)
        let paths = (0..<40).map { "/\($0)" }
        try socket.send(paths.map { "GET \($0) HTTP/1.1\r\nHost: a\r\n\r\n" }.joined())
        let text = try socket.receive(until: "/39;")
        let answered = text.split(separator: "\r\n\r\n").dropFirst()
            .compactMap { $0.split(separator: ";").first.map(String.init) }
        #expect(answered == paths)
    }

    @Test func bodiesWithoutBodies() throws {
        let server = try TestServer { exchange in
            let status = exchange.head.path == "/204" ? 204 : 200
            exchange.respond(HTTPResponseHead(status: status), text: "body")
            return nil
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\nGET /204 HTTP/1.1\r\nHost: a\r\n")
        try socket.send("Connection: close\r\n\r\n")
        let text = try socket.receiveAll()
        #expect(
            text.undated
                == "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nHTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"
        )
    }

    @Test func chunkedBothWaysWithTrailers() throws {
        let server = try TestServer { exchange in
            final class Upper: ServerExchangeDelegate {
                func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
                    exchange.write(body)
                }
                func exchangeReceivedEnd(_ exchange: ServerExchange) {
                    exchange.finish(trailers: ["x-sum": "7"])
                }
            }
            exchange.respond(HTTPResponseHead(status: 200))
            return Upper()
        }
        let socket = try RawSocket(to: server.address)
        try socket.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n4\r\ndefg\r\n0\r\nx-t: 1\r\n\r\n"
        )
        let text = try socket.receive(until: "x-sum: 7\r\n\r\n")
        #expect(
            text.undated == """
                HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\
                x-sum: 7\r\n\r\n
                """)
    }

    @Test func http10ClosesAndIsNotChunked() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 200))
            exchange.write(Array("abc".utf8))
            exchange.finish()
            return nil
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.0\r\n\r\n")
        #expect(
            try socket.receiveAll().undated
                == "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nabc")
    }

    @Test func continueIsSentWhenTheBodyIsWanted() throws {
        let (server, _) = try Self.recording()
        let socket = try RawSocket(to: server.address)
        try socket.send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        #expect(try socket.receive(until: "\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n")
        try socket.send("hi")
        #expect(try socket.receive(until: "ok").hasPrefix("HTTP/1.1 200"))
    }

    @Test func refusedBodyIsNotContinued() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 413), text: "no")
            return nil
        }
        let socket = try RawSocket(to: server.address)
        try socket.send(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        let text = try socket.receiveAll()
        #expect(text.hasPrefix("HTTP/1.1 413 "))
        #expect(text.contains("connection: close"))
    }

    @Test(arguments: [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\u{1}\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\rY: 2\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
        ("GET /\r\nHost: a\r\n\r\n", 400),
        ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n",
            400
        ),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nab\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            400
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
            400
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\nContent-Length: 1\r\n\r\n", 417),
        ("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ])
    func ambiguousRequestsAreRefused(request: String, status: Int) throws {
        let (server, inbox) = try Self.recording()
        let socket = try RawSocket(to: server.address)
        try socket.send(request)
        socket.endOutput()
        let text = try socket.receiveAll()
        #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(text)")
        // What reached a handler was told of its end.
        while !inbox.isEmpty {
            if case .closed(let reason) = try inbox.next() { #expect(reason != .complete) }
        }
    }

    @Test func hugeHeaderIs431AndTheServerGoesOn() throws {
        let server = try TestServer(handler: Self.ok)
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\nX: ")
        try socket.send([UInt8](repeating: UInt8(ascii: "x"), count: 1 << 20))
        let text = try socket.receiveAll()
        #expect(text.hasPrefix("HTTP/1.1 431 "))
        let other = try RawSocket(to: server.address)
        try other.send("GET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(try other.receive(until: "/alive").hasPrefix("HTTP/1.1 200"))
    }

    @Test func stalledBodyTimesOut() throws {
        var configuration = HTTPServerConfiguration()
        configuration.idleTimeout = .milliseconds(150)
        let (server, inbox) = try Self.recording(configuration)
        let text = try answer(
            to: "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf",
            at: server.address)
        #expect(text.hasPrefix("HTTP/1.1 408 "))
        _ = try inbox.next()
        #expect(try inbox.next() == .body(4))
        #expect(try inbox.next() == .closed(.aborted(.timeout(.idle))))
    }

    @Test func slowHeadTimesOut() throws {
        var configuration = HTTPServerConfiguration()
        configuration.headerTimeout = .milliseconds(100)
        let server = try TestServer(configuration, handler: Self.ok)
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHo")
        #expect(try socket.receiveAll().hasPrefix("HTTP/1.1 408 "))
    }

    @Test func idleConnectionIsClosed() throws {
        var configuration = HTTPServerConfiguration()
        configuration.idleTimeout = .milliseconds(100)
        let server = try TestServer(configuration, handler: Self.ok)
        let fresh = try RawSocket(to: server.address)
        #expect(try fresh.receiveAll() == "")
        let used = try answer(to: "GET /a HTTP/1.1\r\nHost: a\r\n\r\n", at: server.address)
        #expect(used.hasSuffix("/a"))
    }

    @Test func clientThatDoesNotReadTimesOut() throws {
        var configuration = HTTPServerConfiguration()
        configuration.idleTimeout = .milliseconds(200)
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer(configuration) { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = {
                $0.respond(HTTPResponseHead(status: 200))
                $0.write([UInt8](repeating: 1, count: 32 << 20))
            }
            return recorder
        }
        // A busy machine may keep a request from coming before its connection counts as idle.
        var sockets: [RawSocket] = []
        var event: ServerEvent?
        while event == nil, sockets.count < 30 {
            let socket = try RawSocket(to: server.address, receiveBuffer: 4096)
            try? socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            sockets.append(socket)
            event = try? inbox.next(within: 2)
        }
        #expect(try inbox.next() == .end)
        #expect(try inbox.next() == .closed(.aborted(.timeout(.idle))))
    }

    @Test func clientDisconnectIsSeen() throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        for isReset in [false, true] {
            let socket = try RawSocket(to: server.address)
            try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            _ = try inbox.next()
            #expect(try inbox.next() == .end)
            if isReset { socket.reset() } else { socket.endOutput() }
            guard case .closed(.aborted(let error)) = try inbox.next() else {
                return #expect(Bool(false))
            }
            #expect(error == .closed || error == .reset)
        }
    }

    @Test func earlyResponseReachesAClientThatKeepsSending() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 413), text: "too much")
            return nil
        }
        let socket = try RawSocket(to: server.address)
        let size = 32 << 20
        try socket.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \(size)\r\n\r\n")
        let part = [UInt8](repeating: 0, count: 1 << 20)
        for _ in 0..<32 { try socket.send(part) }
        let text = try socket.receiveAll()
        #expect(text.hasPrefix("HTTP/1.1 413 "))
        #expect(text.hasSuffix("too much"))
    }

    @Test func smallRestOfARequestKeepsTheConnection() throws {
        let server = try TestServer(handler: Self.ok)
        let socket = try RawSocket(to: server.address)
        try socket.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n")
        try socket.receive(until: "/a")
        try socket.send("restGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(try socket.receive(until: "/b").contains("200 OK"))
    }

    @Test func pausedServerStopsTheClient() throws {
        let inbox = Inbox<ServerEvent>()
        let exchanges = Inbox<@Sendable () -> Void>()
        let server = try TestServer { exchange in
            nonisolated(unsafe) let exchange = exchange
            exchange.pauseReading()
            exchanges.put { exchange.loop.execute { exchange.resumeReading() } }
            return Recorder(exchange, inbox)
        }
        let socket = try RawSocket(to: server.address)
        let total = 64 << 20
        try socket.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \(total)\r\n\r\n")
        let resume = try exchanges.next()
        // The kernel's buffers fill up, and then nothing more goes in.
        let sent = socket.sendUntilFull(total: total)
        #expect(sent < 32 << 20)
        resume()
        try socket.send([UInt8](repeating: 0, count: total - sent))
        #expect(try socket.receive(until: "ok").hasPrefix("HTTP/1.1 200"))
    }

    @Test func writerHearsWhenTheQueueIsShort() throws {
        let inbox = Inbox<ServerEvent>()
        let full = Inbox<Int>()
        let total = 64 << 20
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            let part = [UInt8](repeating: 7, count: 100_000)
            var left = total
            func pump(_ exchange: ServerExchange) {
                while left > 0 {
                    let count = min(left, part.count)
                    left -= count
                    if !exchange.write(Array(part.prefix(count))) { return full.put(left) }
                }
                exchange.finish()
            }
            recorder.onEnd = {
                $0.respond(HTTPResponseHead(status: 200, headers: ["content-length": "\(total)"]))
                pump($0)
            }
            recorder.onWritable = pump
            return recorder
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        // Whoever reads at once may keep the queue short all the way.
        #expect(try full.next() > 0)
        var received = 0
        while true {
            let bytes = try socket.receive()
            if bytes.isEmpty { break }
            received += bytes.count
        }
        #expect(received > total && received < total + 1000)
        var writableCount = 0
        while true {
            let event = try inbox.next()
            if event == .writable { writableCount += 1 }
            if event == .closed(.complete) { break }
        }
        #expect(writableCount > 0)
    }

    @Test func connectionLimitHoldsNewcomersBack() throws {
        var configuration = HTTPServerConfiguration()
        configuration.maximumConnections = 2
        let seen = Inbox<String>()
        let server = try TestServer(configuration) { exchange in
            seen.put(exchange.head.target)
            return Self.ok(exchange)
        }
        func ask(_ target: String, _ socket: RawSocket) throws {
            try socket.send("GET \(target) HTTP/1.1\r\nHost: a\r\n\r\n")
        }
        var sockets = try (0..<2).map { _ in try RawSocket(to: server.address) }
        let newcomer = try RawSocket(to: server.address)
        try ask("/newcomer", newcomer)
        // Many turns of the loop, none of which accepts the newcomer.
        for _ in 0..<20 {
            for socket in sockets {
                try ask("/guest", socket)
                try socket.receive(until: "/guest")
                #expect(try seen.next() == "/guest")
            }
        }
        sockets.removeFirst()
        #expect(try newcomer.receive(until: "/newcomer").contains("200 OK"))
        #expect(try seen.next() == "/newcomer")
    }

    @Test func everyLoopServes() throws {
        let names = Inbox<Bool>()
        let server = try TestServer(loops: 4) { exchange in
            names.put(exchange.loop.isCurrent)
            exchange.respond(
                HTTPResponseHead(status: 200), text: "\(ObjectIdentifier(exchange.loop))")
            return nil
        }
        var seen: Set<Substring> = []
        for _ in 0..<200 where seen.count < 4 {
            let socket = try RawSocket(to: server.address)
            try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            seen.insert(try socket.receive(until: ")").split(separator: "\r\n\r\n")[1])
            #expect(try names.next())
        }
        #expect(seen.count == 4)
    }

    @Test func portInUseIsATypedError() throws {
        let server = try TestServer(handler: Self.ok)
        for count in [1, 2] {
            let group = try EventLoopGroup(count: count, name: "second")
            defer { group.shutdown() }
            #expect(throws: NetError.addressInUse(server.address)) {
                _ = try HTTPServer.listen(on: group, at: server.address, handler: Self.ok)
            }
        }
    }

    @Test func drainFinishesWhatRunsAndClosesTheRest() async throws {
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
        let idle = try RawSocket(to: server.address)
        let busy = try RawSocket(to: server.address)
        try busy.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        let finish = try release.next()
        async let drained: Void = server.server.drain(within: .seconds(patience))
        #expect(try idle.receiveAll() == "")
        finish()
        let text = try busy.receiveAll()
        #expect(text.contains("connection: close") && text.hasSuffix("done"))
        await drained
        #expect(throws: (any Error).self) { try RawSocket(to: server.address) }
    }

    @Test func drainAbortsAfterItsDeadline() async throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        _ = try inbox.next()
        #expect(try inbox.next() == .end)
        await server.server.drain(within: .milliseconds(50))
        #expect(try inbox.next() == .closed(.aborted(.cancelled)))
        #expect(try socket.receiveAll() == "")
    }

    @Test func abortCutsTheResponse() throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = {
                $0.respond(HTTPResponseHead(status: 200))
                $0.write(Array("part".utf8))
                $0.abort()
            }
            return recorder
        }
        let socket = try RawSocket(to: server.address)
        try socket.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        #expect(!(try socket.receiveAll()).contains("0\r\n\r\n"))
        _ = try inbox.next()
        #expect(try inbox.next() == .end)
        #expect(try inbox.next() == .closed(.aborted(.cancelled)))
    }
}
