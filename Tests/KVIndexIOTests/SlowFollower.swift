import Core
import KVIndex
import KVIndexIO
import LoopbackSupport
import Net

/// A follower of `a` that stops to read when its blocks begin to come, until it is told to go on.
///
/// Unchecked: everything that changes is touched on the loop only.
final class SlowFollower: ClientExchangeDelegate, @unchecked Sendable {
    /// How many blocks and changes were told so far.
    let told = Inbox<Int>()
    /// It does not read any more.
    let paused = Inbox<Void>()
    /// The status at the end.
    let ended = Inbox<String>()
    private let loop: EventLoop
    private var client: HTTPClient?
    private var call: ClientExchange?
    private var reader = GRPCFrameReader()
    private var toldCount = 0

    init(of address: SocketAddress, keys: KVIndex.Configuration) throws {
        loop = try EventLoop.start(name: "slow")
        let greeting = ReplicaFrame.greeting(
            ReplicaGreeting(
                router: 1, epoch: 1, maximumFrameBytes: 1 << 16,
                keys: ReplicaKeys(
                    algorithm: "\(keys.algorithm)", blockSize: UInt32(keys.blockSize),
                    seed: keys.hashSeed)))
        loop.execute {
            var configuration = HTTPClientConfiguration()
            configuration.http2 = true
            let client = HTTPClient(on: self.loop, configuration: configuration)
            self.client = client
            self.call = client.start(
                .grpc(path: "/llmd.index.v1.Replicas/Follow"), to: address,
                body: .stream(length: nil), delegate: self)
            self.send(greeting)
        }
    }

    func goOn() { loop.execute { self.call?.resumeReading() } }

    func finish() {
        loop.execute {
            self.call?.cancel()
            self.client?.shutdown()
        }
        loop.shutdown()
    }

    private func send(_ frame: ReplicaFrame) {
        frame.encoded.withUnsafeBytes { _ = call?.writeGRPCMessage($0) }
    }

    private func received(_ frame: ReplicaFrame) {
        switch frame {
        case .offer(let endpoint, true):
            send(.follow(number: 1, endpoint: endpoint, epoch: 0, position: 0))
        case .begin where toldCount == 0:
            call?.pauseReading()
            paused.put(())
        case .blocks(_, let blocks): toldCount += blocks.count
        case .changes(_, _, let changes): toldCount += changes.count
        default: break
        }
        told.put(toldCount)
    }

    func exchange(_ exchange: ClientExchange, responded head: HTTPResponseHead) {}

    func exchange(_ exchange: ClientExchange, received body: UnsafeRawBufferPointer) {
        try? reader.feed(body) { bytes in
            if let frame = try? ReplicaFrame(decoding: bytes) { received(frame) }
        }
    }

    func exchangeReceivedEnd(_ exchange: ClientExchange, trailers: HTTPHeaders?) {
        ended.put(trailers.flatMap { GRPCStatus(trailers: $0) }?.description ?? "no status")
    }

    func exchangeFailed(_ exchange: ClientExchange, _ error: NetError) {
        ended.put(error.description)
    }
}
