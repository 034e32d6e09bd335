import Core
import KVIndexIO
import Logging
import LoopbackSupport
import Net
import RedisClient
import Synchronization
import Telemetry

/// An index that only counts: what other routers told of, by endpoint.
final class ReplicaModel: SharedIndexReplica, Sendable {
    /// What it holds after each change.
    let states = Inbox<[String: Set<SharedBlock>]>()
    /// What it holds now.
    var contents: [String: Set<SharedBlock>] { held.withLock(\.self) }
    /// What was ever taken back.
    var removed: Set<SharedBlock> { everRemoved.withLock(\.self) }
    private let held = Mutex<[String: Set<SharedBlock>]>([:])
    private let everRemoved = Mutex<Set<SharedBlock>>([])

    func add(_ blocks: [SharedBlock], to endpoint: String) {
        change { $0[endpoint, default: []].formUnion(blocks) }
    }

    func remove(_ blocks: [SharedBlock], from endpoint: String) {
        everRemoved.withLock { $0.formUnion(blocks) }
        change { $0[endpoint, default: []].subtract(blocks) }
    }

    private func change(_ body: (inout [String: Set<SharedBlock>]) -> Void) {
        states.put(
            held.withLock { held in
                body(&held)
                return held
            })
    }
}

/// A router as far as it shares its index.
///
/// Unchecked: `backend` is touched on the loop only.
final class SharingRouter: @unchecked Sendable {
    let replica = ReplicaModel()
    let registry = MetricsRegistry()
    private let loop: EventLoop
    private var backend: RedisIndexBackend?

    init(
        _ redis: RedisServer, endpoints: [String] = ["e"],
        _ configure: (inout RedisIndexBackend.Configuration) -> Void = { _ in }
    ) async throws {
        var connection = RedisConfiguration(
            remote: .tcp(redis.address))
        connection.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        connection.connectTimeout = .seconds(1)
        connection.commandTimeout = .seconds(1)
        var configuration = RedisIndexBackend.Configuration(redis: connection)
        configuration.pollInterval = .milliseconds(10)
        configuration.lease = .milliseconds(400)
        configure(&configuration)
        loop = try EventLoop.start(name: "router")
        let metrics = RedisIndexMetrics(registry)
        try await run { [configuration] in
            let backend = try RedisIndexBackend(
                configuration, replica: self.replica, on: self.loop, metrics: metrics,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            backend.update(endpoints)
            self.backend = backend
        }
    }

    func call(_ body: @escaping @Sendable (RedisIndexBackend) -> Void) async throws {
        try await run { if let backend = self.backend { body(backend) } }
    }

    func store(_ blocks: [SharedBlock], at endpoint: String = "e") async throws {
        try await call { $0.stored(blocks, at: endpoint) }
    }

    func remove(_ blocks: [SharedBlock], at endpoint: String = "e") async throws {
        try await call { backend in
            for block in blocks {
                backend.removed([block.engineHash], from: block.tier, at: endpoint)
            }
        }
    }

    /// Waits until other routers' word has come to this.
    func hears(_ expected: Set<SharedBlock>, of endpoint: String = "e") async throws {
        while replica.contents[endpoint] != expected { _ = try await replica.states.next() }
    }

    func metric(_ name: String) -> Double? {
        let page = String(decoding: registry.exposition(), as: UTF8.self)
        return page.split(separator: "\n").first { $0.hasPrefix(name + " ") }
            .flatMap { Double($0.split(separator: " ")[1]) }
    }

    func finish() async throws {
        try await run {
            self.backend?.close()
            self.backend = nil
        }
        loop.shutdown()
    }

    private func run(_ body: @escaping @Sendable () throws -> Void) async throws {
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            loop.execute { done.resume(with: Result { try body() }) }
        }
    }
}

/// Blocks with the given numbers, which the engine names otherwise than the router.
func blocks(_ numbers: Range<UInt64>, _ tier: Tier = .gpu) -> [SharedBlock] {
    numbers.map {
        SharedBlock(
            engineHash: $0 &* 0x9e37_79b9_7f4a_7c15, key: ~$0 &* 0xbf58_476d_1ce4_e5b9, tier: tier)
    }
}
