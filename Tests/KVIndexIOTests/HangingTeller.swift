import Core
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net
import Synchronization

/// A router on whose first connection nothing is ever said; on later ones it greets, and answers
/// each frame by a heartbeat.
final class HangingTeller: Sendable {
    let address: SocketAddress
    private let server: HTTPServer

    init(on loop: EventLoop, keys: KVIndex.Configuration) throws {
        let first = Mutex<SocketAddress?>(nil)
        server = try HTTPServer.listen(on: loop, at: .ownLoopback()) { exchange in
            let hanging = first.withLock { hanging in
                hanging = hanging ?? exchange.peer
                return hanging
            }
            return HangingCall(exchange, keys: keys, isSilent: exchange.peer == hanging)
        }
        address = server.address
    }

    func close() { server.close() }
}

private final class HangingCall: ServerExchangeDelegate {
    private let keys: KVIndex.Configuration
    private let isSilent: Bool
    private var reader = GRPCFrameReader()
    private var hasGreeted = false

    init(_ exchange: ServerExchange, keys: KVIndex.Configuration, isSilent: Bool) {
        self.keys = keys
        self.isSilent = isSilent
        if !isSilent { exchange.respondGRPC() }
    }

    func exchange(_ exchange: ServerExchange, received body: UnsafeRawBufferPointer) {
        guard !isSilent else { return }
        try? reader.feed(body) { _ in
            send(hasGreeted ? .heartbeat : greeting, on: exchange)
            hasGreeted = true
        }
    }

    private var greeting: ReplicaFrame {
        .greeting(
            ReplicaGreeting(
                router: 1, epoch: 1, maximumFrameBytes: 1 << 16,
                keys: ReplicaKeys(
                    algorithm: "\(keys.algorithm)", blockSize: UInt32(keys.blockSize),
                    seed: keys.hashSeed)))
    }

    private func send(_ frame: ReplicaFrame, on exchange: ServerExchange) {
        frame.encoded.withUnsafeBytes { _ = exchange.writeGRPCMessage($0) }
    }
}
