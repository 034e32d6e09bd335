import Core
import Foundation
import Net
import Testing

/// A client on a loop of its own.
final class TestClient: Sendable {
    let loop: EventLoop
    let client: HTTPClient

    init(_ configure: (inout HTTPClientConfiguration) -> Void = { _ in }) throws {
        var configuration = HTTPClientConfiguration()
        configuration.connectTimeout = .seconds(patience)
        configure(&configuration)
        loop = try EventLoop.start(name: "client")
        client = HTTPClient(on: loop, configuration: configuration)
    }

    deinit { loop.shutdown() }

    /// Starts a request; its events arrive in the inbox.
    func start(
        _ method: String = "GET", _ target: String = "/", to address: SocketAddress,
        body: RequestBody = .none, then: @escaping @Sendable (ClientExchange) -> Void = { _ in }
    ) -> Inbox<ClientEvent> {
        let inbox = Inbox<ClientEvent>()
        loop.execute { [client] in
            let exchange = client.start(
                HTTPRequestHead(method: method, target: target), to: address, body: body,
                delegate: ClientRecorder(inbox))
            then(exchange)
        }
        return inbox
    }
}

@Suite(.serialized) struct ClientTests {
    @Test func requestOnTheWire() throws {
        let server = try RawServer()
        let client = try TestClient()
        let inbox = client.start("POST", "/v1?q", to: server.address, body: .bytes([1, 2]))
        let socket = try server.accept()
        #expect(
            try socket.receive(until: "\u{1}\u{2}")
                == "POST /v1?q HTTP/1.1\r\nhost: \(server.address)\r\ncontent-length: 2\r\n\r\n\u{1}\u{2}"
        )
        try socket.send(
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        let response = try inbox.response()
        #expect(response.status == 200)
        #expect(response.body == Array("hi".utf8))
    }

    @Test func connectionsAreReused() throws {
        let server = try RawServer()
        let client = try TestClient()
        var inbox = client.start(to: server.address)
        let socket = try server.accept()
        for _ in 0..<3 {
            try socket.receive(until: "\r\n\r\n")
            try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            #expect(try inbox.response().status == 200)
            inbox = client.start(to: server.address)
        }
        try socket.receive(until: "\r\n\r\n")
        // A response that says so ends the connection; the next request opens another one.
        try socket.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        #expect(try inbox.response().status == 200)
        inbox = client.start(to: server.address)
        let second = try server.accept()
        try second.receive(until: "\r\n\r\n")
        try second.send("HTTP/1.1 204 No Content\r\n\r\n")
        #expect(try inbox.response().status == 204)
    }

    @Test func staleConnectionIsRetriedOnce() throws {
        let server = try RawServer()
        let client = try TestClient()
        var inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        #expect(try inbox.response().status == 200)
        // The server takes the next request and closes without an answer.
        inbox = client.start("POST", to: server.address, body: .bytes([65]))
        try socket.receive(until: "\r\n\r\nA")
        socket.reset()
        let second = try server.accept()
        try second.receive(until: "\r\n\r\nA")
        try second.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nB")
        #expect(try inbox.response().body == [66])
        // A body that was streamed is gone.
        inbox = client.start("POST", to: server.address, body: .stream(length: nil)) {
            $0.write([65])
        }
        try second.receive(until: "A")
        second.reset()
        #expect(throws: NetError.self) { try inbox.response() }
    }

    @Test func refusedConnectionIsAConnectFailure() throws {
        let address = try RawServer().address
        let client = try TestClient()
        let inbox = client.start(to: address)
        guard case .failed(let error) = try inbox.next() else { return #expect(Bool(false)) }
        #expect(error.isConnectFailure)
        #expect(error == .connectFailed("\(address): connection refused"))
    }

    @Test func aFailureMayGiveTheClientUp() throws {
        let address = try RawServer().address
        let loop = try EventLoop.start(name: "client")
        let failures = Inbox<NetError>()
        loop.execute {
            let client = HTTPClient(on: loop)
            client.start(
                HTTPRequestHead(method: "GET", target: "/"), to: address,
                delegate: LastOwner(of: client, failures))
        }
        #expect(try failures.next().isConnectFailure)
        loop.shutdown()
    }

    @Test func unknownHostIsAConnectFailure() throws {
        let client = try TestClient { $0.connectTimeout = .seconds(5) }
        let inbox = client.start(to: SocketAddress(host: "no-such-host.invalid", port: 80))
        guard case .failed(let error) = try inbox.next() else { return #expect(Bool(false)) }
        #expect(error.isConnectFailure)
    }

    @Test func connectTimesOut() throws {
        // A full accept queue: the kernel answers no further handshake.
        let server = try RawServer(backlog: 0)
        let fillers = try (0..<2).map { _ -> Int32 in
            let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
            try withSocketAddress(port: server.address.port) { _ = connect(fd, $0, $1) }
            return fd
        }
        defer { for fd in fillers { close(fd) } }
        let client = try TestClient { $0.connectTimeout = .milliseconds(200) }
        let inbox = client.start(to: server.address)
        #expect(try inbox.next() == .failed(.timeout(.connect)))
    }

    @Test func responseHeadTimesOut() throws {
        let server = try RawServer()
        let client = try TestClient { $0.responseHeadTimeout = .milliseconds(100) }
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        #expect(try inbox.next() == .failed(.timeout(.responseHead)))
        #expect(try socket.receive(until: "never").hasSuffix("\r\n\r\n"))
    }

    @Test func stalledBodyTimesOut() throws {
        let server = try RawServer()
        let client = try TestClient { $0.idleTimeout = .milliseconds(100) }
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        #expect(try inbox.next() == .responded(200))
        #expect(try inbox.next() == .body(Array("half".utf8)))
        #expect(try inbox.next() == .failed(.timeout(.idle)))
    }

    @Test func serverDeathIsSeen() throws {
        let server = try RawServer()
        let client = try TestClient()
        for head in ["Content-Length: 9", "Transfer-Encoding: chunked"] {
            let inbox = client.start(to: server.address)
            var socket: RawSocket? = try server.accept()
            try socket?.receive(until: "\r\n\r\n")
            try socket?.send("HTTP/1.1 200 OK\r\n\(head)\r\n\r\n3\r\n")
            #expect(try inbox.next() == .responded(200))
            socket = nil
            var event = try inbox.next()
            if case .body = event { event = try inbox.next() }
            #expect(event == .failed(.closed))
        }
    }

    @Test func bodyUntilTheEndOfTheConnection() throws {
        let server = try RawServer()
        let client = try TestClient()
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        try socket.send("HTTP/1.0 200 OK\r\n\r\nall of it")
        socket.endOutput()
        #expect(try inbox.response().body == Array("all of it".utf8))
    }

    @Test(arguments: [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n", "HTTP/3.0 200 OK\r\n\r\n", "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ])
    func malformedResponseIsAProtocolError(response: String) throws {
        let server = try RawServer()
        let client = try TestClient()
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        try socket.send(response)
        do {
            _ = try inbox.response()
            #expect(Bool(false))
        } catch NetError.protocolViolation {
        }
    }

    @Test func hugeResponseHeaderIsRefused() throws {
        let server = try RawServer()
        let client = try TestClient()
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.send("HTTP/1.1 200 OK\r\nX: " + String(repeating: "x", count: 70_000))
        #expect(try inbox.next() == .failed(.headersTooLarge))
    }

    @Test func cancelClosesTheConnectionAndIsSilent() throws {
        let server = try RawServer()
        let client = try TestClient()
        let cancels = Inbox<@Sendable () -> Void>()
        let inbox = client.start(to: server.address) { exchange in
            nonisolated(unsafe) let exchange = exchange
            cancels.put { exchange.cancel() }
        }
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        let cancel = try cancels.next()
        client.loop.execute { cancel() }
        #expect(try socket.receiveAll() == "")
        try client.loop.run {}
        #expect(inbox.isEmpty)
    }

    @Test func streamedUploadHearsBackpressure() throws {
        let server = try RawServer()
        let client = try TestClient()
        let part = [UInt8](repeating: 5, count: 1 << 20)
        let blocked = Inbox<Int>()
        let inbox = client.start("PUT", to: server.address, body: .stream(length: 64 << 20)) {
            exchange in
            var count = 1
            while exchange.write(part) { count += 1 }
            blocked.put(count)
        }
        let written = try blocked.next()
        #expect(written < 64)
        let socket = try server.accept()
        var received = 0
        while received < written << 20 { received += try socket.receive().count }
        #expect(try inbox.next() == .writable)
    }

    @Test func earlyResponseDuringAnUploadIsDelivered() throws {
        let server = try TestServer { exchange in
            exchange.respond(HTTPResponseHead(status: 413), text: "no")
            return nil
        }
        let client = try TestClient()
        let part = [UInt8](repeating: 5, count: 1 << 20)
        let inbox = client.start("PUT", to: server.address, body: .stream(length: 1 << 30)) {
            exchange in
            while exchange.write(part) {}
        }
        let response = try inbox.response()
        #expect(response.status == 413)
        #expect(response.body == Array("no".utf8))
    }

    @Test func pausedClientStopsTheServer() throws {
        let server = try RawServer()
        let client = try TestClient()
        let exchanges = Inbox<@Sendable () -> Void>()
        let inbox = client.start(to: server.address) { exchange in
            nonisolated(unsafe) let exchange = exchange
            exchange.pauseReading()
            exchanges.put { exchange.resumeReading() }
        }
        let resume = try exchanges.next()
        let socket = try server.accept()
        let total = 64 << 20
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: \(total)\r\n\r\n")
        let sent = socket.sendUntilFull(total: total)
        #expect(sent < 32 << 20)
        client.loop.execute { resume() }
        try socket.send([UInt8](repeating: 0, count: total - sent))
        #expect(try inbox.response().body.count == total)
    }

    @Test func poolIsBounded() throws {
        let server = try RawServer()
        let client = try TestClient {
            $0.maximumConnectionsPerHost = 1
            $0.maximumWaitingPerHost = 1
        }
        let first = client.start("GET", "/1", to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        let second = client.start("GET", "/2", to: server.address)
        let third = client.start("GET", "/3", to: server.address)
        #expect(try third.next() == .failed(.poolExhausted))
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        #expect(try first.response().status == 200)
        #expect(try socket.receive(until: "\r\n\r\n").hasPrefix("GET /2"))
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        #expect(try second.response().status == 200)
    }

    @Test func waitingForAPlaceHasADeadline() throws {
        let server = try RawServer()
        let client = try TestClient {
            $0.maximumConnectionsPerHost = 1
            $0.connectTimeout = .seconds(2)
        }
        let first = client.start("GET", "/1", to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        let second = client.start("GET", "/2", to: server.address)
        #expect(try second.next() == .failed(.timeout(.connect)))
        try socket.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        #expect(try first.response().status == 200)
    }

    @Test func shutdownFailsWhatRuns() throws {
        let server = try RawServer()
        let client = try TestClient()
        let inbox = client.start(to: server.address)
        let socket = try server.accept()
        try socket.receive(until: "\r\n\r\n")
        client.loop.execute { [client = client.client] in client.shutdown() }
        #expect(try inbox.next() == .failed(.cancelled))
        #expect(try client.start(to: server.address).next() == .failed(.cancelled))
    }

    @Test func sendCollectsFromAnyThread() async throws {
        let server = try TestServer { exchange in
            if exchange.head.path == "/never" { return Recorder(exchange, Inbox()) }
            exchange.respond(
                HTTPResponseHead(status: 200), body: [UInt8](repeating: 1, count: 5000))
            return nil
        }
        let client = try TestClient()
        try await withThrowingTaskGroup { group in
            for _ in 0..<50 {
                group.addTask {
                    try await client.client.send(
                        HTTPRequestHead(method: "GET", target: "/"), to: server.address
                    ).body.count
                }
            }
            for try await count in group { #expect(count == 5000) }
        }
        let get = HTTPRequestHead(method: "GET", target: "/")
        await #expect(throws: NetError.bodyTooLarge(limit: 100)) {
            try await client.client.send(get, to: server.address, maximumResponseBytes: 100)
        }
    }

    @Test func sendHasADeadlineAndEndsWithItsTask() async throws {
        let inbox = Inbox<ServerEvent>()
        let server = try TestServer { exchange in
            let recorder = Recorder(exchange, inbox)
            recorder.onEnd = { _ in }
            return recorder
        }
        let client = try TestClient()
        let get = HTTPRequestHead(method: "GET", target: "/")
        await #expect(throws: NetError.timeout(.deadline)) {
            try await client.client.send(get, to: server.address, timeout: .milliseconds(50))
        }
        let second = HTTPRequestHead(method: "GET", target: "/second")
        let task = Task { try await client.client.send(second, to: server.address) }
        while true {
            if case .head(let head) = try inbox.next(), head.target == "/second" { break }
        }
        task.cancel()
        await #expect(throws: NetError.cancelled) { try await task.value }
        client.loop.shutdown()
        await #expect(throws: NetError.cancelled) {
            try await client.client.send(get, to: server.address)
        }
    }
}

/// Gives its client up when the request fails.
private final class LastOwner: ClientExchangeDelegate {
    private var client: HTTPClient?
    private let failures: Inbox<NetError>

    init(of client: HTTPClient, _ failures: Inbox<NetError>) {
        self.client = client
        self.failures = failures
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {}
    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {}
    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {}

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        client = nil
        failures.put(error)
    }
}
