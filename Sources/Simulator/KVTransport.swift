import Core
import Net
import Transfer

/// The engine's KV memory, and the way to that of other engines. Belongs to the engine's loop.
///
/// Every byte that arrives is compared with what the block's hash says it must be.
final class KVTransport {
    /// How a pull ended.
    enum Outcome {
        /// Every block is here and right.
        case arrived(path: TransferPath, byteCount: Int, time: Duration)
        /// Blocks are here, but so many of them are not what their hashes say.
        case mismatched(blockCount: Int)
        /// The blocks are not here.
        case failed(TransferError)
    }

    /// What the engine hears. Never called from inside a call.
    struct Handlers {
        var pullEnded: (EngineRequest, Outcome) -> Void
        /// Another engine is done with the blocks of a request here.
        var released: (_ requestID: String) -> Void
    }

    private struct PeerKey: Hashable {
        var address: SocketAddress
        var engineID: String
    }

    private enum Operation {
        case pull(EngineRequest, RemoteKV)
        case release(requestID: String)
    }

    private final class Peer {
        let key: PeerKey
        let connection: TransferPeer
        var isUp = false
        /// What to do once it is up.
        var waiting: [Operation] = []

        init(_ key: PeerKey, _ connection: TransferPeer) {
            self.key = key
            self.connection = connection
        }
    }

    /// The memory of the pool.
    let region: KVRegion
    /// How other engines find it.
    let identity: TransferIdentity
    private let engine: TransferEngine
    private let paths: Set<TransferPath>
    private let timeout: Duration
    private let loop: EventLoop
    private var handlers: Handlers?
    private var watcher: FileWatcher?
    private var peers: [PeerKey: Peer] = [:]
    private var pulls: [TransferID: (request: EngineRequest, peer: Peer)] = [:]

    /// Allocates the memory and listens for other engines.
    init(_ configuration: SimulatorConfiguration, on loop: EventLoop) throws(SimulatorError) {
        self.loop = loop
        paths = configuration.transferPaths
        timeout = configuration.transferTimeout
        do {
            engine = try TransferEngine()
            region = try KVRegion(
                on: engine, blockCount: configuration.blockCount,
                blockByteCount: configuration.blockByteCount)
            identity = TransferIdentity(
                engineID: engine.id.description,
                address: try engine.listen(on: configuration.transferAddress))
        } catch {
            throw .cannotStart(
                part: "KV transfer on \(configuration.transferAddress)", reason: "\(error)")
        }
    }

    /// Begins to hear of transfers.
    func start(_ handlers: Handlers) throws(SimulatorError) {
        self.handlers = handlers
        do {
            watcher = try loop.watchReadable(engine.completionDescriptor) { [weak self] in
                self?.drain()
            }
        } catch {
            throw .cannotStart(part: "KV transfer", reason: "\(error)")
        }
    }

    func close() {
        watcher?.cancel()
        handlers = nil
        peers = [:]
    }

    /// Computes a block: its bytes become what its hash says.
    func fill(_ block: BlockID, _ key: BlockPattern.Key) {
        BlockPattern.fill(region[Int(block)], key: key)
    }

    /// Takes blocks back from other engines. They only read, so the blocks can be reused at once.
    func fence(_ blocks: [BlockID]) {
        do {
            _ = try region.fence(blocks.map { UInt32($0) })
        } catch {
            preconditionFailure("the region has not all blocks of the pool: \(error)")
        }
    }

    /// Reads what a request is to pull. `pullEnded` follows.
    func pull(_ request: EngineRequest, from remote: RemoteKV) {
        perform(.pull(request, remote), with: remote)
    }

    /// Tells another engine that its blocks are not wanted any longer.
    func release(_ remote: RemoteKV) {
        perform(.release(requestID: remote.requestID), with: remote)
    }

    /// Asks for an early end of a pull. `pullEnded` follows, as without.
    func cancel(_ request: EngineRequest) {
        if let id = pulls.first(where: { $0.value.request === request })?.key {
            engine.cancel(id)
        } else {
            for peer in peers.values {
                let index = peer.waiting.firstIndex {
                    if case .pull(let pulled, _) = $0 { pulled === request } else { false }
                }
                guard let index, case .pull(_, let remote) = peer.waiting[index] else { continue }
                peer.waiting[index] = .release(requestID: remote.requestID)
                fail(request, .cancelled)
            }
        }
    }

    // MARK: - Peers

    private func perform(_ operation: Operation, with remote: RemoteKV) {
        let key = PeerKey(address: remote.address, engineID: remote.engineID)
        if let peer = peers[key] {
            if peer.isUp { submit(operation, to: peer) } else { peer.waiting.append(operation) }
            return
        }
        do throws(TransferError) {
            guard let id = EngineID(remote.engineID) else { throw TransferError.invalidArgument }
            let connection = try engine.connect(to: remote.address, expecting: id, paths: paths)
            let peer = Peer(key, connection)
            peer.waiting = [operation]
            peers[key] = peer
        } catch {
            fail(operation, error)
        }
    }

    private func submit(_ operation: Operation, to peer: Peer) {
        do throws(TransferError) {
            switch operation {
            case .pull(let request, let remote):
                // The first region is the pool; an engine has no other.
                guard let pool = peer.connection.regions.first else {
                    throw TransferError.noSuchRegion
                }
                let id = try peer.connection.read(
                    Array(remote.blocks[request.pulled]), of: pool, epoch: remote.epoch,
                    into: request.blocks[request.pulled].map { UInt32($0) }, of: region,
                    timeout: timeout, notification: Array(remote.requestID.utf8))
                pulls[id] = (request, peer)
            case .release(let requestID):
                _ = try peer.connection.notify(Array(requestID.utf8), timeout: timeout)
            }
        } catch {
            fail(operation, error)
        }
    }

    /// A release that is lost is made up for by the other side's lease.
    private func fail(_ operation: Operation, _ error: TransferError) {
        if case .pull(let request, _) = operation { fail(request, error) }
    }

    private func fail(_ request: EngineRequest, _ error: TransferError) {
        loop.schedule(after: .zero) { [weak self] in
            self?.handlers?.pullEnded(request, .failed(error))
        }
    }

    // MARK: - Events

    private func drain() {
        var events: [TransferEvent] = []
        engine.drain { events.append($0) }
        for event in events {
            switch event {
            case .finished(let completion): finished(completion)
            case .notified(let bytes, _):
                handlers?.released(String(decoding: bytes, as: UTF8.self))
            case .peerUp(let id, _):
                guard let peer = peers.values.first(where: { $0.connection.id == id }) else {
                    break
                }
                peer.isUp = true
                let waiting = peer.waiting
                peer.waiting = []
                for operation in waiting { submit(operation, to: peer) }
            case .peerDown(let id, let error):
                guard let peer = peers.values.first(where: { $0.connection.id == id }) else {
                    break
                }
                peers[peer.key] = nil
                for operation in peer.waiting { fail(operation, error) }
            case .regionGone:
                break  // all its memory is in pools
            }
        }
    }

    private func finished(_ completion: Completion) {
        guard let (request, peer) = pulls.removeValue(forKey: completion.id) else { return }
        guard completion.error == nil, let path = completion.path else {
            if peers[peer.key] === peer, let remote = request.remote { release(remote) }
            handlers?.pullEnded(request, .failed(completion.error ?? .unreachable))
            return
        }
        let wrongCount = request.pulled.count { index in
            let bytes = UnsafeRawBufferPointer(region[Int(request.blocks[index])])
            return !BlockPattern.matches(bytes, key: BlockPattern.Key(request.chain[index]))
        }
        handlers?.pullEnded(
            request,
            wrongCount > 0
                ? .mismatched(blockCount: wrongCount)
                : .arrived(
                    path: path, byteCount: completion.byteCount, time: completion.elapsed))
    }
}
