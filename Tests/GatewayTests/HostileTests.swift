import Core
import Foundation
import Gateway
import LoopbackSupport
import ModelServers
import Net
import Testing

/// Clients that are slow on purpose, and engines that answer nonsense: nobody waits for longer
/// than the deadline says.
@Suite(.timeLimit(.minutes(1))) struct HostileTests {
    // MARK: - Clients

    @Test func aBodyThatTricklesIsCutOff() async throws {
        let stage = try await Stage(engines: 1) { $0.bodyTimeout = .milliseconds(200) }
        for http2 in [false, true] {
            let client = LoopbackClient(on: stage.group, to: stage.gateway.address, http2: http2)
            let call = client.stream("POST", "/v1/completions", length: 1 << 20)
            // Each byte is progress, so the idle timeout says nothing.
            let trickling = Task {
                while !Task.isCancelled {
                    call.write(" ")
                    try await Task.sleep(for: .milliseconds(5))
                }
            }
            let head = try await call.head()
            trickling.cancel()
            #expect(head.status == 408)
            call.cancel()
        }
        #expect(!stage.engines[0].hasRequests)
        try await stage.ping()
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func aHeadThatTricklesIsCutOff() async throws {
        let stage = try await Stage(engines: 1) { $0.server.headerTimeout = .milliseconds(200) }
        let address = stage.gateway.address
        let answer = await Task.detached {
            let socket = RawSocket(connectingTo: address)
            defer { socket.close() }
            socket.send("POST /v1/completions HTTP/1.1\r\nhost: a\r\n")
            // Until the other side has closed: a field every 5 ms, each in time if taken alone.
            var answer = ""
            while true {
                guard let text = socket.receive(waitingMilliseconds: 5) else { return answer }
                answer += text
                if text.isEmpty { socket.send("x: y\r\n") }
            }
        }.value
        #expect(answer.hasPrefix("HTTP/1.1 408 "))
        try await stage.ping()
        await stage.stop()
    }

    // MARK: - Engines

    @Test(arguments: [
        "", "garbage\r\n\r\n", "HTTP/1.1 200", "HTTP/1.1 999 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\nx y: 1\n\n", "\u{16}\u{3}\u{1}\u{2}",
    ])
    func nonsenseInPlaceOfAnAnswerIs502(answer: String) async throws {
        let stage = try await Stage(engines: 0)
        let engine = RawEngine(answer: answer)
        defer { engine.stop() }
        stage.pool.update([ModelServer(name: "raw", address: engine.address)])
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 502)
        try expectError(response, type: "BadGateway")
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test(arguments: [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnonsense\r\n",
    ])
    func anAnswerThatEndsTooSoonIsNotTakenForWhole(answer: String) async throws {
        let stage = try await Stage(engines: 0)
        let engine = RawEngine(answer: answer)
        defer { engine.stop() }
        stage.pool.update([ModelServer(name: "raw", address: engine.address)])
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        #expect(try await call.head().status == 200)
        #expect(try await call.rest().failure != nil)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test(arguments: ["", "HTTP/1.1 200 OK\r\nx: "])
    func anEngineThatIsSilentIs504(answer: String) async throws {
        let stage = try await Stage(engines: 0) {
            $0.client.responseHeadTimeout = .milliseconds(100)
        }
        let engine = RawEngine(answer: answer, closes: false)
        defer { engine.stop() }
        stage.pool.update([ModelServer(name: "raw", address: engine.address)])
        let response = try await stage.client.fetch("POST", "/v1/completions", body: completion)
        #expect(response.status == 504)
        try expectError(response, type: "GatewayTimeout")
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    @Test func aStreamThatFallsSilentIsBrokenOff() async throws {
        let stage = try await Stage(engines: 0) { $0.client.idleTimeout = .milliseconds(100) }
        let engine = RawEngine(
            answer: "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
                + "transfer-encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n", closes: false)
        defer { engine.stop() }
        stage.pool.update([ModelServer(name: "raw", address: engine.address)])
        let call = stage.client.send("POST", "/v1/completions", body: completion)
        #expect(try await call.head().status == 200)
        let (body, failure) = try await call.rest()
        #expect(body.contains("data: 1\n\n") && body.contains(#"data: {"error""#))
        #expect(failure != nil)
        #expect(stage.inFlightCount == 0)
        await stage.stop()
    }

    // MARK: - TLS

    @Test(arguments: [false, true])
    func servesTLS(http2: Bool) async throws {
        let address = SocketAddress.ownLoopback()
        let tls = try TLSServerContext.selfSigned(names: [address.host])
        let stage = try await Stage(engines: 1) {
            $0.address = address
            $0.server.tls = tls
        }
        let file = FileManager.default.temporaryDirectory
            .appending(path: "ca-\(UUID().uuidString).pem").path
        try tls.certificatePEM().write(toFile: file, atomically: true, encoding: .utf8)
        defer { try? FileManager.default.removeItem(atPath: file) }
        let client = LoopbackClient(
            on: stage.group, to: stage.gateway.address, http2: http2,
            tls: try TLSClientContext(verify: .ca(file: file)))
        let call = client.send("POST", "/v1/completions", body: completion)
        let request = try await stage.engines[0].next()
        request.begin(200, ["content-type": "text/event-stream"])
        request.write("data: 1\n\n")
        #expect(try await call.head().status == 200)
        #expect(try await call.body(until: "\n\n") == "data: 1\n\n")
        request.finish()
        #expect(try await call.rest().failure == nil)
        await stage.stop()
    }
}

/// A server that takes one connection after the other, reads a request's head, sends what it was
/// told to, and closes, or keeps silent until it is stopped.
private final class RawEngine: Sendable {
    let address: SocketAddress
    private let listener: Int32

    init(answer: String, closes: Bool = true) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let host = SocketAddress.ownLoopback().host
        precondition(
            RawSocket.withAddress(SocketAddress(host: host, port: 0)) {
                bind(descriptor, $0, $1)
            } == 0)
        precondition(listen(descriptor, 16) == 0)
        listener = descriptor
        address = SocketAddress(host: host, port: RawSocket.port(of: descriptor))
        Thread.detachNewThread {
            var kept: [RawSocket] = []
            while true {
                let accepted = accept(descriptor, nil, nil)
                guard accepted >= 0 else { break }
                let socket = RawSocket(accepted)
                var head = ""
                while !head.contains("\r\n\r\n") {
                    guard let text = socket.receive(waitingMilliseconds: 30_000) else { break }
                    head += text
                }
                socket.send(answer)
                if closes { socket.close() } else { kept.append(socket) }
            }
            for socket in kept { socket.close() }
            Foundation.close(descriptor)
        }
    }

    func stop() { shutdown(listener, Int32(SHUT_RDWR)) }
}

private struct RawSocket: Sendable {
    private let descriptor: Int32

    init(_ descriptor: Int32) { self.descriptor = descriptor }

    init(connectingTo address: SocketAddress) {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let descriptor = descriptor
        precondition(Self.withAddress(address) { connect(descriptor, $0, $1) } == 0)
    }

    func send(_ text: String) {
        _ = Array(text.utf8).withUnsafeBytes {
            Foundation.send(descriptor, $0.baseAddress, $0.count, 0)
        }
    }

    /// What came within a time; nil once the other side has closed.
    func receive(waitingMilliseconds: Int32) -> String? {
        var ready = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&ready, 1, waitingMilliseconds) > 0 else { return "" }
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return count > 0 ? String(decoding: buffer.prefix(count), as: UTF8.self) : nil
    }

    func close() { Foundation.close(descriptor) }

    static func withAddress(
        _ address: SocketAddress, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32
    ) -> Int32 {
        let (host, port) = (address.host, address.port)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        precondition(inet_pton(AF_INET, host, &address.sin_addr) == 1)
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        return withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, size) }
        }
    }

    static func port(of descriptor: Int32) -> UInt16 {
        var address = sockaddr_in()
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                getsockname(descriptor, $0, &size)
            }
        }
        precondition(status == 0)
        return UInt16(bigEndian: address.sin_port)
    }
}
