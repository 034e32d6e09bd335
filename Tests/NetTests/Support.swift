import Core
import Dispatch
import Foundation
import Net
import Synchronization
import Testing

/// Waits longer than anything here takes on a busy machine; a wait that runs out is a failure.
let patience = 60.0

struct TimedOut: Error {}

/// Carries events from loops to the test's thread.
final class Inbox<Element: Sendable>: Sendable {
    private let elements = Mutex<[Element]>([])
    private let count = DispatchSemaphore(value: 0)

    func put(_ element: Element) {
        elements.withLock { $0.append(element) }
        count.signal()
    }

    /// The next element; blocks.
    func next(within seconds: Double = patience) throws -> Element {
        guard count.wait(timeout: .now() + seconds) == .success else { throw TimedOut() }
        return elements.withLock { $0.removeFirst() }
    }

    var isEmpty: Bool { elements.withLock(\.isEmpty) }
}

extension EventLoop {
    /// Runs `body` on the loop and waits for its result.
    func run<Result: Sendable>(_ body: @escaping @Sendable () -> Result) throws -> Result {
        let inbox = Inbox<Result>()
        execute { inbox.put(body()) }
        return try inbox.next()
    }
}

/// A server on loops of its own.
final class TestServer: Sendable {
    let group: EventLoopGroup
    let server: HTTPServer
    var address: SocketAddress { server.address }

    init(
        loops: Int = 1, _ configuration: HTTPServerConfiguration = HTTPServerConfiguration(),
        handler: @escaping HTTPServerHandler
    ) throws {
        group = try EventLoopGroup(count: loops, name: "test")
        do {
            server = try HTTPServer.listen(
                on: group, at: SocketAddress(host: "127.0.0.1", port: 0),
                configuration: configuration, handler: handler)
        } catch {
            group.shutdown()
            throw error
        }
    }

    deinit { group.shutdown() }
}

/// What a server answers on a new connection, up to its end. A busy machine may keep the request
/// from coming before the connection counts as idle; then there is another one.
func answer(to request: String, at address: SocketAddress) throws -> String {
    for _ in 0..<100 {
        let socket = try RawSocket(to: address)
        guard (try? socket.send(request)) != nil else { continue }
        if let text = try? socket.receiveAll(), !text.isEmpty { return text }
    }
    throw TimedOut()
}

/// What a server's delegate hears.
enum ServerEvent: Sendable, Equatable {
    case head(HTTPRequestHead)
    case body(Int)
    case end
    case writable
    case closed(ExchangeEnd)
}

/// Reports everything and leaves the answer to closures.
final class Recorder: ServerExchangeDelegate {
    let inbox: Inbox<ServerEvent>
    var onEnd: (ServerExchange) -> Void = { $0.respond(HTTPResponseHead(status: 200), text: "ok") }
    var onWritable: (ServerExchange) -> Void = { _ in }

    init(_ exchange: ServerExchange, _ inbox: Inbox<ServerEvent>) {
        self.inbox = inbox
        inbox.put(.head(exchange.head))
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        inbox.put(.body(body.count))
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        inbox.put(.end)
        onEnd(exchange)
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        inbox.put(.writable)
        onWritable(exchange)
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        inbox.put(.closed(reason))
    }
}

/// Sends back what it gets, with backpressure both ways.
final class Echo: ServerExchangeDelegate {
    init(_ exchange: ServerExchange) {
        exchange.respond(HTTPResponseHead(status: 200))
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        if !exchange.write(body) { exchange.pauseReading() }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) { exchange.finish() }
    func exchangeWritable(_ exchange: ServerExchange) { exchange.resumeReading() }
    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {}
}

/// What a client's delegate hears.
enum ClientEvent: Sendable, Equatable {
    case responded(Int)
    case body([UInt8])
    case end(HTTPHeaders?)
    case writable
    case failed(NetError)
}

final class ClientRecorder: ClientExchangeDelegate {
    let inbox: Inbox<ClientEvent>

    init(_ inbox: Inbox<ClientEvent>) {
        self.inbox = inbox
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        inbox.put(.responded(head.status))
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        inbox.put(.body(Array(body)))
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        inbox.put(.end(trailers))
    }

    func exchangeWritable(_ exchange: ClientExchange) { inbox.put(.writable) }
    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) { inbox.put(.failed(error)) }
}

extension Inbox<ClientEvent> {
    /// Status and body up to the end; throws the failure.
    func response() throws -> (status: Int, body: [UInt8], trailers: HTTPHeaders?) {
        var status = 0
        var body: [UInt8] = []
        while true {
            switch try next() {
            case .responded(let code): status = code
            case .body(let bytes): body += bytes
            case .writable: break
            case .end(let trailers): return (status, body, trailers)
            case .failed(let error): throw error
            }
        }
    }
}

extension String {
    /// Without `date` fields, of which every response has one.
    var undated: String { replacing(/date: [^\r]*\r\n/, with: "") }
}

/// A blocking socket without HTTP.
final class RawSocket: Sendable {
    let fd: Int32

    init(fd: Int32) {
        self.fd = fd
        limitWaits(on: fd)
    }

    convenience init(to address: SocketAddress, receiveBuffer: Int32? = nil) throws {
        let fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        if var bytes = receiveBuffer {
            setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, socklen_t(MemoryLayout<Int32>.size))
        }
        self.init(fd: fd)
        try withSocketAddress(port: address.port) { pointer, count in
            guard connect(fd, pointer, count) == 0 else {
                throw POSIXError(.init(rawValue: errno) ?? .EIO)
            }
        }
    }

    deinit { close(fd) }

    func send(_ text: String) throws { try send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes { buffer in
                Foundation.send(
                    fd, buffer.baseAddress?.advanced(by: sent), bytes.count - sent,
                    Int32(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
            sent += count
        }
    }

    /// Sends zeros until the system has taken none for a while, or `total`; the count it took.
    func sendUntilFull(total: Int) -> Int {
        let part = [UInt8](repeating: 0, count: 1 << 20)
        var sent = 0
        var writable = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
        while sent < total, poll(&writable, 1, 200) == 1 {
            let count = Foundation.send(
                fd, part, min(part.count, total - sent),
                Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
            if count > 0 { sent += count }
        }
        return sent
    }

    /// The next bytes; empty at the end.
    func receive() throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = recv(fd, &bytes, bytes.count, 0)
        guard count >= 0 else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
        return Array(bytes.prefix(count))
    }

    /// Everything up to the end of the connection.
    func receiveAll() throws -> String {
        var all: [UInt8] = []
        while true {
            let bytes = try receive()
            if bytes.isEmpty { return String(decoding: all, as: UTF8.self) }
            all += bytes
        }
    }

    /// Reads until the text received so far contains `text`.
    @discardableResult
    func receive(until text: String) throws -> String {
        var all = ""
        while !all.contains(text) {
            let bytes = try receive()
            if bytes.isEmpty { return all }
            all += String(decoding: bytes, as: UTF8.self)
        }
        return all
    }

    func endOutput() { Foundation.shutdown(fd, Int32(SHUT_WR)) }

    /// Closes with a reset.
    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(
            fd, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout.size(ofValue: linger)))
        Foundation.shutdown(fd, Int32(SHUT_RDWR))
    }
}

/// A listening socket without HTTP.
final class RawServer: Sendable {
    let fd: Int32
    let address: SocketAddress

    init(backlog: Int32 = 16) throws {
        fd = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        limitWaits(on: fd)
        let fd = self.fd
        let port = try withSocketAddress(port: 0) { pointer, count in
            guard bind(fd, pointer, count) == 0, listen(fd, backlog) == 0 else {
                throw POSIXError(.init(rawValue: errno) ?? .EIO)
            }
            var bound = sockaddr_in()
            var size = socklen_t(MemoryLayout<sockaddr_in>.size)
            withUnsafeMutableBytes(of: &bound) {
                _ = getsockname(fd, $0.baseAddress?.assumingMemoryBound(to: sockaddr.self), &size)
            }
            return UInt16(bigEndian: bound.sin_port)
        }
        address = SocketAddress(host: "127.0.0.1", port: port)
    }

    deinit { close(fd) }

    func accept() throws -> RawSocket {
        let connection = Foundation.accept(fd, nil, nil)
        guard connection >= 0 else { throw POSIXError(.init(rawValue: errno) ?? .EIO) }
        return RawSocket(fd: connection)
    }
}

/// Lets blocking calls fail after a while.
private func limitWaits(on fd: Int32) {
    var timeout = timeval(tv_sec: Int(patience), tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
        setsockopt(fd, SOL_SOCKET, option, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }
}

func withSocketAddress<Result>(
    port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) throws -> Result
) throws -> Result {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return try withUnsafeBytes(of: &address) { bytes in
        guard let pointer = bytes.baseAddress?.assumingMemoryBound(to: sockaddr.self) else {
            throw TimedOut()
        }
        return try body(pointer, socklen_t(bytes.count))
    }
}
