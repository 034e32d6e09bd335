import Core
import KVIndexIO
import LoopbackSupport
import Net
import RedisClient

/// A client by which a test looks at its server. Of `send`, replies other than numbers count as 0.
///
/// Unchecked: `client` is touched on the loop only.
final class RedisControl: @unchecked Sendable {
    private let loop: EventLoop
    private var client: RedisClient?

    init(_ server: RedisServer) async throws {
        loop = try EventLoop.start(name: "control")
        let states = Inbox<RedisClient.State>()
        var configuration = RedisConfiguration(remote: .unix(path: server.socketPath))
        configuration.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        configuration.commandTimeout = .seconds(20)
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            loop.execute { [configuration] in
                done.resume(
                    with: Result {
                        self.client = try RedisClient(configuration, on: self.loop) {
                            states.put($0)
                        }
                    })
            }
        }
        while try await states.next() != .ready {}
    }

    func send(_ command: String...) async throws -> Int {
        try await send(command) { $0.integer ?? 0 }
    }

    /// The texts of an array, sorted.
    func texts(_ command: String...) async throws -> [String] {
        try await send(command) { reply in
            (0..<reply.count).map { reply[$0].text ?? "" }.sorted()
        }
    }

    private func send<Value: Sendable>(
        _ command: [String], _ value: @escaping @Sendable (RedisReply) -> Value
    ) async throws -> Value {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute {
                var pipeline = RedisPipeline()
                pipeline.begin(command[0], argumentCount: command.count - 1)
                for argument in command.dropFirst() { pipeline.add(argument) }
                do {
                    try self.client?.send(pipeline) { result in
                        continuation.resume(with: result.map { value($0[0]) })
                    }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    func lookup(_ keys: [UInt64]) async throws -> [String: Int] {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute {
                let lookup = RedisIndexLookup()
                var pipeline = RedisPipeline()
                lookup.append(keys, to: &pipeline)
                do {
                    try self.client?.send(pipeline) { result in
                        continuation.resume(
                            with: Result { try lookup.matches(in: result.get()) })
                    }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    func finish() async throws {
        await withCheckedContinuation { continuation in
            loop.execute {
                self.client?.close()
                self.client = nil
                continuation.resume()
            }
        }
        loop.shutdown()
    }
}
