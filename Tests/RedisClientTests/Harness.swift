import Core
import LoopbackSupport
import Net
import RedisClient

/// A reply that outlives the call that hands it over.
indirect enum Value: Equatable, Sendable {
    case text(String)
    case integer(Int)
    case none
    case error(RedisServerError.Kind)
    case array([Value])

    init(_ reply: RedisReply) {
        if let error = reply.error {
            self = .error(error.kind)
        } else if let text = reply.text {
            self = .text(text)
        } else if reply.isNil {
            self = .none
        } else if let integer = reply.integer {
            self = .integer(integer)
        } else {
            self = .array((0..<reply.count).map { Value(reply[$0]) })
        }
    }
}

/// A client on a loop of its own.
///
/// Unchecked: `client` is touched on the loop only.
final class Harness: @unchecked Sendable {
    let states = Inbox<RedisClient.State>()
    private let loop: EventLoop
    private var client: RedisClient?

    init(_ configuration: RedisConfiguration) async throws {
        loop = try EventLoop.start(name: "redis-test")
        let states = states
        try await run {
            self.client = try RedisClient(configuration, on: self.loop) { states.put($0) }
        }
    }

    convenience init(
        _ server: RedisServer, _ configure: (inout RedisConfiguration) -> Void = { _ in }
    ) async throws {
        var configuration = RedisConfiguration(
            remote: .tcp(server.address))
        // A machine under load is not what these tests are about.
        configuration.connectTimeout = .seconds(20)
        configuration.commandTimeout = .seconds(20)
        configuration.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        configure(&configuration)
        try await self.init(configuration)
    }

    /// Waits for a state that fits; passes over others.
    @discardableResult
    func next(where fits: (RedisClient.State) -> Bool) async throws -> RedisClient.State {
        while true {
            let state = try await states.next()
            if fits(state) { return state }
        }
    }

    func ready() async throws { try await next { $0 == .ready } }

    /// Sends a pipeline and waits for its replies.
    func send(_ commands: [[String]]) async throws -> [Value] {
        var pipeline = RedisPipeline()
        for command in commands {
            pipeline.begin(command[0], argumentCount: command.count - 1)
            for argument in command.dropFirst() { pipeline.add(argument) }
        }
        return try await send(pipeline)
    }

    func send(_ pipeline: RedisPipeline) async throws -> [Value] {
        try await withCheckedThrowingContinuation { continuation in
            loop.execute {
                do {
                    try self.client?.send(pipeline) { result in
                        continuation.resume(
                            with: result.map { replies in
                                (0..<replies.count).map { Value(replies[$0]) }
                            })
                    }
                } catch {
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    /// Sends a command; its result, once the client has taken it.
    func begin(_ command: [String]) async throws -> Inbox<Result<[Value], RedisError>> {
        let inbox = Inbox<Result<[Value], RedisError>>()
        try await run {
            var pipeline = RedisPipeline()
            pipeline.begin(command[0], argumentCount: command.count - 1)
            for argument in command.dropFirst() { pipeline.add(argument) }
            try self.client?.send(pipeline) { result in
                inbox.put(
                    result.map { replies in (0..<replies.count).map { Value(replies[$0]) } })
            }
        }
        return inbox
    }

    func call(_ body: @escaping @Sendable (RedisClient) -> Void) async throws {
        try await run { if let client = self.client { body(client) } }
    }

    func finish() async throws {
        try await run {
            self.client?.close()
            self.client = nil
        }
        loop.shutdown()
    }

    private func run(_ body: @escaping @Sendable () throws -> Void) async throws {
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            loop.execute { done.resume(with: Result { try body() }) }
        }
    }
}
