import Foundation
import Messaging
import Net

/// What a subscriber or replay client reported, with its bytes copied.
enum Report: Equatable, Sendable {
    case batch(topic: String, sequence: UInt64, payload: [UInt8])
    case connected
    case disconnected
    case malformed(Int)
    case finished
    case failed(MessagingError)
    case frames([[UInt8]])

    var payload: [UInt8]? {
        if case .batch(_, _, let payload) = self { payload } else { nil }
    }

    var sequence: UInt64? {
        if case .batch(_, let sequence, _) = self { sequence } else { nil }
    }
}

/// The reports of one socket in their order.
struct Reports {
    let sink: AsyncStream<Report>.Continuation
    private var iterator: AsyncStream<Report>.Iterator

    init() {
        let (stream, sink) = AsyncStream.makeStream(of: Report.self)
        self.sink = sink
        iterator = stream.makeAsyncIterator()
    }

    mutating func next() async -> Report? { await iterator.next() }

    /// Passes over other reports until one fits.
    mutating func next(where fits: (Report) -> Bool) async -> Report? {
        while let report = await iterator.next() {
            if fits(report) { return report }
        }
        return nil
    }
}

/// An event loop with the objects that live on it; ends them in `finish`.
///
/// Unchecked: `objects` is touched on the loop only, which every method asserts or hops to.
final class LoopHarness: @unchecked Sendable {
    let loop: EventLoop
    let context: MessagingContext
    private var objects: [String: AnyObject] = [:]

    init() throws {
        loop = try EventLoop.start(name: "messaging-test")
        context = try MessagingContext()
    }

    /// Runs `body` on the loop and waits for its result.
    func run<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) async throws -> Value
    {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute { continuation.resume(with: Result { try body() }) }
        }
    }

    func keep(_ object: AnyObject, as name: String) {
        loop.preconditionInLoop()
        objects[name] = object
    }

    func object<Object>(_ name: String) -> Object {
        loop.preconditionInLoop()
        guard let object = objects[name] as? Object else { preconditionFailure("no \(name)") }
        return object
    }

    func drop(_ name: String) {
        loop.preconditionInLoop()
        objects[name] = nil
    }

    func finish() async throws {
        try await run { self.objects = [:] }
        loop.shutdown()
    }

    // MARK: - The objects

    func publisher(
        _ endpoint: String, replay: String? = nil, topic: String = "kv@a@m",
        bufferedBatchCount: Int = 10_000, bufferedByteCount: Int = 64 << 20,
        as name: String = "publisher"
    ) async throws -> (endpoint: String, replayEndpoint: String?) {
        try await run {
            var configuration = KVEventPublisher.Configuration()
            configuration.endpoint = endpoint
            configuration.replayEndpoint = replay
            configuration.topic = topic
            configuration.bufferedBatchCount = bufferedBatchCount
            configuration.bufferedByteCount = bufferedByteCount
            let publisher = try KVEventPublisher(
                context: self.context, on: self.loop, configuration: configuration)
            self.keep(publisher, as: name)
            return (publisher.endpoint, publisher.replayEndpoint)
        }
    }

    func publish(_ payloads: [[UInt8]], on name: String = "publisher") async throws {
        try await run {
            let publisher: KVEventPublisher = self.object(name)
            for payload in payloads { publisher.publish(payload) }
        }
    }

    func stopPublisher() async throws {
        try await run {
            let publisher: KVEventPublisher = self.object("publisher")
            publisher.close()
            self.drop("publisher")
        }
    }

    @discardableResult
    func subscriber(
        _ mode: KVEventSubscriber.Mode, topicPrefix: String = "", into reports: Reports,
        as name: String = "subscriber"
    ) async throws -> String {
        let sink = reports.sink
        return try await run {
            var configuration = KVEventSubscriber.Configuration()
            configuration.topicPrefix = topicPrefix
            let subscriber = try KVEventSubscriber(
                context: self.context, on: self.loop, mode: mode, configuration: configuration
            ) { event in
                switch event {
                case .batch(let topic, let sequence, let payload):
                    sink.yield(
                        .batch(
                            topic: String(decoding: topic, as: UTF8.self), sequence: sequence,
                            payload: Array(payload)))
                case .connected: sink.yield(.connected)
                case .disconnected: sink.yield(.disconnected)
                case .malformed(let frameCount): sink.yield(.malformed(frameCount))
                }
            }
            self.keep(subscriber, as: name)
            return subscriber.endpoint
        }
    }

    /// Publishes until the subscription has reached the publisher, which ZMQ does not tell, and
    /// one batch has come through.
    func settle(_ reports: inout Reports, publisher name: String = "publisher") async throws {
        let ticker = Task {
            while !Task.isCancelled {
                try await publish([Array("settle".utf8)], on: name)
                try await Task.sleep(for: .milliseconds(5))
            }
        }
        _ = await reports.next { $0.payload != nil }
        ticker.cancel()
        _ = await ticker.result
    }

    func replay(
        _ endpoint: String, from start: UInt64, idleTimeout: Duration = .seconds(20),
        into reports: Reports
    ) async throws {
        let sink = reports.sink
        try await run {
            let client = try KVReplayClient(
                context: self.context, on: self.loop, endpoint: endpoint, from: start,
                idleTimeout: idleTimeout
            ) { event in
                switch event {
                case .batch(let topic, let sequence, let payload):
                    let topic = topic.map { String(decoding: $0, as: UTF8.self) } ?? ""
                    sink.yield(
                        .batch(topic: topic, sequence: sequence, payload: Array(payload)))
                case .finished: sink.yield(.finished)
                case .failed(let error): sink.yield(.failed(error))
                }
            }
            self.keep(client, as: "replay")
        }
    }

    /// A bare socket whose messages are reported as frames and may be answered.
    func rawSocket(
        _ kind: ZMQSocket.Kind, bindTo endpoint: String? = nil, connectTo remote: String? = nil,
        as name: String, into reports: Reports,
        answer: @escaping @Sendable (_ frames: [[UInt8]]) -> [[[UInt8]]] = { _ in [] }
    ) async throws {
        let sink = reports.sink
        try await run {
            let socket = try ZMQSocket(kind, in: self.context)
            if let endpoint { try socket.bind(to: endpoint) }
            if let remote { try socket.connect(to: remote) }
            self.keep(socket, as: name)
            guard kind != .pub else { return }
            let reader = try SocketReader(socket, on: self.loop) { [weak socket] message in
                let frames = (0..<message.count).map { Array(message[$0]) }
                sink.yield(.frames(frames))
                for reply in answer(frames) { socket?.send(frames: reply) }
            }
            self.keep(reader, as: name + "-reader")
        }
    }

    func send(_ frames: [[UInt8]], on name: String) async throws {
        try await run {
            let socket: ZMQSocket = self.object(name)
            socket.send(frames: frames)
        }
    }
}

extension ZMQSocket {
    fileprivate func send(frames: [[UInt8]]) {
        for (index, frame) in frames.enumerated() { send(frame, more: index < frames.count - 1) }
    }
}

/// An abstract `ipc` endpoint of its own for each test: it leaves no file.
func ipcEndpoint() -> String {
    let unique = "\(ProcessInfo.processInfo.processIdentifier)-\(UInt32.random(in: 0 ... .max))"
    return "ipc://@llmd-messaging-\(unique)"
}

func hexBytes(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = Substring(text)
    while let byte = UInt8(rest.prefix(2), radix: 16) {
        bytes.append(byte)
        rest = rest.dropFirst(2)
    }
    return bytes
}
