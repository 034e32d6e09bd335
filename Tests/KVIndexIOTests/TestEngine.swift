import Core
import Foundation
import Hashing
import KVIndex
import KVIndexIO
import Logging
import Messaging
import Net
import Scan
import Telemetry

/// What an engine publishes: blocks of 4 tokens whose hash is told by the test.
func storePayload(
    _ hashes: [UInt64], parent: UInt64? = nil, tokens: [UInt32], rank: Int = 0
) -> [UInt8] {
    payload(rank: rank) { writer in
        writer.map(count: 5)
        writer.string("type")
        writer.string("BlockStored")
        writer.string("block_hashes")
        writer.array(count: hashes.count)
        for hash in hashes { writer.unsigned(hash) }
        writer.string("parent_block_hash")
        if let parent { writer.unsigned(parent) } else { writer.null() }
        writer.string("token_ids")
        writer.array(count: tokens.count)
        for token in tokens { writer.unsigned(UInt64(token)) }
        writer.string("block_size")
        writer.unsigned(4)
    }
}

private func payload(rank: Int, _ event: (inout MessagePackWriter) -> Void) -> [UInt8] {
    var writer = MessagePackWriter()
    writer.array(count: 3)
    writer.double(Date().timeIntervalSince1970)
    writer.array(count: 1)
    event(&writer)
    writer.unsigned(UInt64(rank))
    return writer.bytes
}

/// A source with its index, and engines that it may subscribe to.
///
/// Unchecked: `engines` and `sockets` are touched on the loop only.
final class Stack: @unchecked Sendable {
    let loop: EventLoop
    let context: MessagingContext
    let index: KVIndex
    let source: KVEventSource
    let registry = MetricsRegistry()
    private var engines: [String: KVEventPublisher] = [:]
    private var sockets: [AnyObject] = []

    init(_ configure: (inout KVEventSource.Configuration) -> Void = { _ in }) throws {
        loop = try EventLoop.start(name: "kv-source-test")
        context = try MessagingContext()
        var indexConfiguration = KVIndex.Configuration()
        indexConfiguration.blockSize = 4
        index = try KVIndex(configuration: indexConfiguration)
        var configuration = KVEventSource.Configuration()
        configure(&configuration)
        source = KVEventSource(
            index: index, context: context, on: loop, configuration: configuration,
            metrics: KVIndexMetrics(registry, index: index),
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    }

    func finish() async throws {
        await source.shutdown()
        try await run {
            for engine in self.engines.values { engine.close() }
            self.engines = [:]
            self.sockets = []
        }
        loop.shutdown()
    }

    func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value
    {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute { continuation.resume(with: Result { try body() }) }
        }
    }

    /// Starts an engine. Where one was stopped ZMQ may take a moment to let go of the endpoint.
    func startEngine(
        _ name: String, at endpoint: String, replay: String? = nil, topic: String = "kv@e@m"
    ) async throws {
        try await eventually {
            try await run {
                var configuration = KVEventPublisher.Configuration()
                configuration.endpoint = endpoint
                configuration.replayEndpoint = replay
                configuration.topic = topic
                do {
                    self.engines[name] = try KVEventPublisher(
                        context: self.context, on: self.loop, configuration: configuration)
                } catch MessagingError.addressInUse {
                    return false
                }
                return true
            }
        }
    }

    func stopEngine(_ name: String) async throws {
        try await run { self.engines.removeValue(forKey: name)?.close() }
    }

    func publish(_ name: String, _ payload: [UInt8]) async throws {
        _ = try await run { self.engines[name]?.publish(payload) }
    }

    /// An engine made of bare sockets, which loses what the test wants lost.
    func startLossyEngine(
        at endpoint: String, replay: String, batches: [[UInt8]]
    ) async throws {
        try await run {
            let live = try ZMQSocket(.pub, in: self.context)
            try live.bind(to: endpoint)
            let router = try ZMQSocket(.router, in: self.context)
            try router.bind(to: replay)
            let reader = try SocketReader(router, on: self.loop) { [weak router] request in
                let identity = Array(request[0])
                let start = request[2].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                let end: [[UInt8]] = [identity, [], [], Array(repeating: 0xff, count: 8), []]
                for (sequence, batch) in batches.enumerated() where sequence >= start {
                    router?.send(
                        frames: [
                            identity, [], Array("kv@e@m".utf8), bytes(UInt64(sequence)), batch,
                        ])
                }
                router?.send(frames: end)
            }
            self.sockets += [live, router, reader]
        }
    }

    func sendLossy(_ sequence: UInt64, _ payload: [UInt8]) async throws {
        try await run {
            guard let live = self.sockets[0] as? ZMQSocket else { return }
            live.send(frames: [Array("kv@e@m".utf8), bytes(sequence), payload])
        }
    }

    /// How many blocks of the prompt an engine holds by the index.
    func matched(_ tokens: [UInt32], on name: String) -> Int {
        guard let endpoint = index.endpoint(named: name) else { return 0 }
        var matches = PrefixMatches()
        let keys = index.hasher(model: "m").keys(of: tokens.span)
        index.match(keys.span, at: .now, into: &matches)
        return matches[endpoint].blockCount
    }

    func state(of name: String) -> KVEngineState? {
        source.engines.first { $0.name == name }
    }
}

extension ZMQSocket {
    fileprivate func send(frames: [[UInt8]]) {
        for (index, frame) in frames.enumerated() { send(frame, more: index < frames.count - 1) }
    }
}

private func bytes(_ value: UInt64) -> [UInt8] {
    withUnsafeBytes(of: value.bigEndian) { Array($0) }
}

/// Asks until the answer is yes; the test's time limit is the deadline.
func eventually(_ condition: () async throws -> Bool) async throws {
    while try await !condition() { try await Task.sleep(for: .milliseconds(2)) }
}

func ipcEndpoint() -> String {
    let unique = "\(ProcessInfo.processInfo.processIdentifier)-\(UInt32.random(in: 0 ... .max))"
    return "ipc://@llmd-kv-\(unique)"
}

func server(_ name: String, events: String?, replay: String? = nil, port: UInt16 = 1) -> ModelServer
{
    ModelServer(
        name: name, address: SocketAddress(host: "10.0.0.7", port: port), eventsEndpoint: events,
        replayEndpoint: replay)
}
