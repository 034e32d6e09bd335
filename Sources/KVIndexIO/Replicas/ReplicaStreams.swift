import Core
import Net

/// One end of a connection between routers, as far as it carries frames. Loop-bound.
protocol ReplicaStream: AnyObject {
    /// Whether a frame may be written.
    var isWritable: Bool { get }
    func write(_ frame: [UInt8])
    /// Ends the connection; nothing is heard of it any more.
    func close(_ error: ReplicaError)
}

/// What becomes of a stream.
enum ReplicaStreamEvent {
    case received(UnsafeRawBufferPointer)
    case writable
    /// Once and last, except after `close`.
    case closed(ReplicaError)
}

/// The call of a router that follows this one.
final class FollowerStream: ServerExchangeDelegate, ReplicaStream {
    private let exchange: ServerExchange
    private var handler: ((ReplicaStreamEvent) -> Void)?
    private var reader: GRPCFrameReader
    private(set) var isWritable = true

    init(
        _ exchange: ServerExchange, maximumFrameBytes: Int,
        handler: @escaping (ReplicaStreamEvent) -> Void
    ) {
        self.exchange = exchange
        self.handler = handler
        reader = GRPCFrameReader(maximumMessageBytes: maximumFrameBytes)
        exchange.respondGRPC()
    }

    func write(_ frame: [UInt8]) {
        isWritable = frame.withUnsafeBytes { exchange.writeGRPCMessage($0) }
    }

    func close(_ error: ReplicaError) {
        guard handler != nil else { return }
        handler = nil
        exchange.finishGRPC(error.status)
    }

    private func end(_ error: ReplicaError) {
        let handler = handler
        close(error)
        handler?(.closed(error))
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        guard handler != nil else { return }
        do {
            try reader.feed(body) { handler?(.received($0)) }
        } catch {
            end(.malformed(error.description))
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        end(.connection("the follower ended it"))
    }

    func exchangeWritable(_ exchange: ServerExchange) {
        isWritable = true
        handler?(.writable)
    }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        switch reason {
        case .complete: end(.connection("it ended"))
        case .aborted(let error): end(.connection(error.description))
        }
    }
}

/// The call to a router that this one may follow, on a connection of its own: the next try must not
/// meet the one on which this call fell silent.
final class TellerStream: ClientExchangeDelegate, ReplicaStream {
    static let path = "/llmd.index.v1.Replicas/Follow"

    private let client: HTTPClient
    private var exchange: ClientExchange?
    private var handler: ((ReplicaStreamEvent) -> Void)?
    private var reader: GRPCFrameReader
    private var head: HTTPResponseHead?
    private(set) var isWritable = true

    init(
        to address: SocketAddress, on loop: EventLoop, tls: TLSClientContext?, takesLoad: Bool,
        maximumFrameBytes: Int, handler: @escaping (ReplicaStreamEvent) -> Void
    ) {
        self.handler = handler
        reader = GRPCFrameReader(maximumMessageBytes: maximumFrameBytes)
        var configuration = HTTPClientConfiguration()
        configuration.http2 = true
        configuration.tls = tls
        client = HTTPClient(on: loop, configuration: configuration)
        var metadata: HTTPHeaders = [:]
        if takesLoad { metadata.set(ReplicaFrame.loadHeader, "\(ReplicaFrame.loadVersion)") }
        exchange = client.start(
            .grpc(path: Self.path, metadata: metadata), to: address, body: .stream(length: nil),
            delegate: self)
    }

    func write(_ frame: [UInt8]) {
        isWritable = frame.withUnsafeBytes { exchange?.writeGRPCMessage($0) ?? true }
    }

    func close(_ error: ReplicaError) {
        handler = nil
        exchange?.cancel()
        exchange = nil
        client.shutdown()
    }

    private func end(_ error: ReplicaError) {
        let handler = handler
        close(error)
        handler?(.closed(error))
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {
        self.head = head
    }

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        guard handler != nil, head?.status == 200 else { return }
        do {
            try reader.feed(body) { handler?(.received($0)) }
        } catch {
            end(.malformed(error.description))
        }
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        guard let status = (trailers ?? head?.headers).flatMap({ GRPCStatus(trailers: $0) }) else {
            return end(.connection("HTTP status \(head?.status ?? 0) without a gRPC status"))
        }
        end(.connection(status.description))
    }

    func exchangeWritable(_ exchange: ClientExchange) {
        isWritable = true
        handler?(.writable)
    }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        end(.connection(error.description))
    }
}

extension ReplicaError {
    fileprivate var status: GRPCStatus {
        switch self {
        case .malformed, .unexpected: .invalidArgument(description)
        // FAILED_PRECONDITION
        case .version, .keys, .configuration, .itself, .duplicate:
            GRPCStatus(code: 9, message: description)
        case .tooMany: .resourceExhausted(description)
        case .silent: .deadlineExceeded(description)
        case .connection: .unavailable(description)
        }
    }
}
