import Core
import Foundation
import Testing
import Transfer

/// Waits for events on an engine's descriptor, with a deadline.
private final class EventReader {
    private let engine: TransferEngine
    private var waiting: [TransferEvent] = []

    init(_ engine: TransferEngine) {
        self.engine = engine
    }

    /// The next event within ten seconds.
    func next() throws -> TransferEvent {
        let end = MonotonicTime.now + .seconds(10)
        while true {
            engine.drain { waiting.append($0) }
            if !waiting.isEmpty { return waiting.removeFirst() }
            let left = end - .now
            try #require(left > .zero, "no event came")
            var descriptor = pollfd(
                fd: engine.completionDescriptor, events: Int16(POLLIN), revents: 0)
            poll(&descriptor, 1, Int32(left.seconds * 1000) + 1)
        }
    }

    func nextCompletion() throws -> Completion {
        guard case .finished(let completion) = try next() else {
            throw TransferError.protocolViolation
        }
        return completion
    }
}

/// A listening engine with a region, and an engine connected to it over one path.
private struct Pair {
    let prefill: TransferEngine
    let decode: TransferEngine
    let source: KVRegion
    let target: KVRegion
    let peer: TransferPeer
    let prefillEvents: EventReader
    let decodeEvents: EventReader

    init(_ path: TransferPath, blockCount: Int = 64, blockByteCount: Int = 16384) throws {
        prefill = try TransferEngine()
        decode = try TransferEngine()
        source = try KVRegion(on: prefill, blockCount: blockCount, blockByteCount: blockByteCount)
        target = try KVRegion(on: decode, blockCount: blockCount, blockByteCount: blockByteCount)
        prefillEvents = EventReader(prefill)
        decodeEvents = EventReader(decode)
        let address = try prefill.listen(on: SocketAddress(host: "127.0.0.1", port: 0))
        peer = try decode.connect(to: address, expecting: prefill.id, paths: [path])
        #expect(try decodeEvents.next() == .peerUp(peer.id, path: path))
    }

    func fill() {
        for block in 0..<source.blockCount {
            source[block].initializeMemory(as: UInt8.self, repeating: UInt8(block + 1))
        }
    }
}

/// A port where connections open and nobody answers.
private final class SilentListener {
    let address: SocketAddress
    private let descriptor: Int32

    init() throws {
        let file = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        descriptor = file
        var bound = sockaddr_in()
        bound.sin_family = sa_family_t(AF_INET)
        bound.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let isListening = withUnsafeMutablePointer(to: &bound) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(file, address, length) == 0 && listen(file, 1) == 0
                    && getsockname(file, address, &length) == 0
            }
        }
        address = SocketAddress(host: "127.0.0.1", port: UInt16(bigEndian: bound.sin_port))
        try #require(isListening)
    }

    deinit { close(descriptor) }
}

@Suite("Transfers between engines")
struct TransferTests {
    @Test(
        "Scattered blocks arrive in their places, and the notification with them",
        arguments: TransferPath.allCases)
    func readScattered(path: TransferPath) throws {
        let pair = try Pair(path)
        pair.fill()
        let remote = try #require(pair.peer.regions.first)
        #expect(remote == pair.source.remote)
        #expect(remote.blockCount == 64)
        #expect(pair.peer.path == path)
        #expect(pair.peer.engineID == pair.prefill.id)

        let remoteBlocks: [UInt32] = [63, 0, 17, 4]
        let localBlocks: [UInt32] = [1, 2, 60, 3]
        let id = try pair.peer.read(
            remoteBlocks, of: remote, into: localBlocks, of: pair.target,
            notification: Array("request-7".utf8))
        let completion = try pair.decodeEvents.nextCompletion()
        #expect(completion.id == id)
        #expect(completion.peer == pair.peer.id)
        #expect(completion.error == nil)
        #expect(completion.path == path)
        #expect(completion.failedBlocks.isEmpty)
        #expect(completion.byteCount == 4 * 16384)
        #expect(completion.elapsed > .zero)
        for (remoteBlock, localBlock) in zip(remoteBlocks, localBlocks) {
            #expect(pair.target[Int(localBlock)].allSatisfy { $0 == UInt8(remoteBlock + 1) })
        }
        #expect(pair.target[0].allSatisfy { $0 == 0 })
        let notified = try pair.prefillEvents.next()
        #expect(
            notified == .notified(bytes: Array("request-7".utf8), sender: pair.decode.id))
        #expect(pair.decode.statistics(of: path).byteCount == 4 * 16384)
        #expect(pair.decode.statistics(of: path).transfers == 1)
    }

    @Test(
        "Blocks that were taken back are stale for those who hold them from before",
        arguments: TransferPath.allCases)
    func fence(path: TransferPath) throws {
        let pair = try Pair(path)
        pair.fill()
        let given = pair.source.epoch
        let epoch = try pair.source.fence([17])
        #expect(epoch == given + 1)
        #expect(pair.source.epoch == epoch)
        #expect(throws: TransferError.outOfRange) { try pair.source.fence([64]) }

        let remote = pair.source.remote
        _ = try pair.peer.read([4, 17], of: remote, epoch: given, into: [0, 1], of: pair.target)
        #expect(try pair.decodeEvents.nextCompletion().error == .stale)
        _ = try pair.peer.write([2], of: pair.target, over: [17], of: remote, epoch: given)
        #expect(try pair.decodeEvents.nextCompletion().error == .stale)
        #expect(pair.source[17].allSatisfy { $0 == 18 })
        _ = try pair.peer.read([4, 17], of: remote, epoch: epoch, into: [0, 1], of: pair.target)
        #expect(try pair.decodeEvents.nextCompletion().error == nil)
        #expect(pair.target[1].allSatisfy { $0 == 18 })
        let end = MonotonicTime.now + .seconds(10)
        while pair.source.settledEpoch < epoch {
            try #require(.now < end, "the fence is not settled")
            poll(nil, 0, 1)
        }
    }

    @Test("Blocks are written over remote ones", arguments: TransferPath.allCases)
    func writeScattered(path: TransferPath) throws {
        let pair = try Pair(path)
        pair.target[5].initializeMemory(as: UInt8.self, repeating: 9)
        _ = try pair.peer.write(
            [5, 5], of: pair.target, over: [0, 63], of: pair.source.remote)
        #expect(try pair.decodeEvents.nextCompletion().error == nil)
        #expect(pair.source[0].allSatisfy { $0 == 9 })
        #expect(pair.source[1].allSatisfy { $0 == 0 })
        #expect(pair.source[63].allSatisfy { $0 == 9 })
    }

    @Test("A notification travels alone", arguments: TransferPath.allCases)
    func notifyAlone(path: TransferPath) throws {
        let pair = try Pair(path)
        _ = try pair.peer.notify([1, 2, 3])
        #expect(try pair.decodeEvents.nextCompletion().error == nil)
        #expect(
            try pair.prefillEvents.next() == .notified(bytes: [1, 2, 3], sender: pair.decode.id))
    }

    @Test("A remote block out of range fails and is named")
    func remoteOutOfRange() throws {
        let pair = try Pair(.tcp)
        _ = try pair.peer.read([0, 64], of: pair.source.remote, into: [0, 1], of: pair.target)
        let completion = try pair.decodeEvents.nextCompletion()
        #expect(completion.error == .outOfRange)
        #expect(completion.failedBlocks == [0, 1])
        #expect(completion.byteCount == 0)
    }

    @Test("A region lies on the node it is asked for")
    func placedRegion() throws {
        let engine = try TransferEngine()
        let region = try KVRegion(on: engine, blockCount: 4, blockByteCount: 4096, node: 0)
        region[3].copyBytes(from: [7])
        #expect(region[3][0] == 7)
    }

    @Test("Wrong parameters throw at once")
    func wrongParameters() throws {
        let pair = try Pair(.memfd)
        let remote = pair.source.remote
        #expect(throws: TransferError.outOfRange) {
            try pair.peer.read([0], of: remote, into: [64], of: pair.target)
        }
        #expect(throws: TransferError.invalidArgument) {
            try pair.peer.read([0, 1], of: remote, into: [0], of: pair.target)
        }
        #expect(throws: TransferError.invalidArgument) {
            try pair.peer.notify(Array(repeating: 0, count: 257))
        }
        #expect(throws: TransferError.invalidArgument) {
            try KVRegion(on: pair.decode, blockCount: 1, blockByteCount: 16, node: 1000)
        }
        #expect(throws: TransferError.invalidArgument) {
            try KVRegion(on: pair.decode, blockCount: 1, blockByteCount: 16, node: -1)
        }
        #expect(throws: TransferError.invalidArgument) {
            try KVRegion(on: pair.decode, blockCount: -1, blockByteCount: 16)
        }
        #expect(throws: TransferError.pathForbidden) {
            try pair.decode.connect(to: SocketAddress(host: "127.0.0.1", port: 1), paths: [])
        }
        #expect(throws: TransferError.invalidArgument) {
            try pair.decode.connect(to: SocketAddress(host: "localhost", port: 1))
        }
    }

    @Test(
        "An engine that goes ends its peers; the old region is stale for the next engine",
        arguments: TransferPath.allCases)
    func restart(path: TransferPath) throws {
        let decode = try TransferEngine()
        let events = EventReader(decode)
        let target = try KVRegion(on: decode, blockCount: 4, blockByteCount: 512)
        var prefill: TransferEngine? = try TransferEngine()
        var source: KVRegion? = try prefill.map { engine in
            try KVRegion(on: engine, blockCount: 4, blockByteCount: 512)
        }
        let oldRegion = try #require(source?.remote)
        let oldID = try #require(prefill?.id)
        let address = try #require(
            try prefill?.listen(on: SocketAddress(host: "127.0.0.1", port: 0)))
        let peer = try decode.connect(to: address, paths: [path])
        #expect(try events.next() == .peerUp(peer.id, path: path))
        source = nil
        prefill = nil
        #expect(try events.next() == .peerDown(peer.id, .peerDead))
        _ = try peer.read([0], of: oldRegion, into: [0], of: target)
        #expect(try events.nextCompletion().error == .peerDead)

        let restarted = try TransferEngine()
        let newSource = try KVRegion(on: restarted, blockCount: 4, blockByteCount: 512)
        #expect(try restarted.listen(on: address) == address)
        let mistaken = try decode.connect(to: address, expecting: oldID, paths: [path])
        #expect(try events.next() == .peerDown(mistaken.id, .stale))
        let again = try decode.connect(to: address, paths: [path])
        #expect(try events.next() == .peerUp(again.id, path: path))
        _ = try again.read([0, 1], of: oldRegion, into: [0, 1], of: target)
        let completion = try events.nextCompletion()
        #expect(completion.error == .stale)
        #expect(completion.failedBlocks == [0, 1])
        #expect(again.regions == [newSource.remote])
    }

    @Test("Letting a peer go cancels what it carries")
    func releaseCancels() throws {
        let pair = try Pair(.tcp)
        let listener = try SilentListener()
        var peer: TransferPeer? = try pair.decode.connect(to: listener.address, paths: [.tcp])
        let id = try #require(
            try peer?.read([0], of: pair.source.remote, into: [0], of: pair.target))
        peer = nil
        while true {
            guard case .finished(let completion) = try pair.decodeEvents.next() else { continue }
            #expect(completion.id == id)
            #expect(completion.error == .cancelled)
            return
        }
    }

    @Test("Cancelling ends a transfer that waits for its peer, whenever it comes")
    func cancelWaiting() throws {
        let listener = try SilentListener()
        let engine = try TransferEngine()
        let events = EventReader(engine)
        let peer = try engine.connect(to: listener.address, timeout: .seconds(60))
        // The engine's thread is met at all places of its turn.
        for _ in 0..<500 {
            let id = try peer.notify([1])
            engine.cancel(id)
            let completion = try events.nextCompletion()
            #expect(completion.id == id)
            #expect(completion.error == .cancelled)
            #expect(completion.path == nil)
        }
    }

    @Test("Engine ids print and parse")
    func engineID() throws {
        let engine = try TransferEngine()
        let text = engine.id.description
        #expect(text.count == 32)
        #expect(EngineID(text) == engine.id)
        #expect(EngineID("") == nil)
        #expect(EngineID(String(repeating: "g", count: 32)) == nil)
        #expect(EngineID(text + "0") == nil)
    }

    @Test("Every error has words of its own")
    func errorDescriptions() {
        let texts = Set(TransferError.allCases.map(\.description))
        #expect(texts.count == TransferError.allCases.count)
        #expect(!texts.contains("an unknown status"))
    }
}
