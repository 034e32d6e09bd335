import Core
import Hashing
import KVIndex
import KVIndexIO
import Logging
import LoopbackSupport
import Net
import RedisClient
import Telemetry

/// A router as far as it shares its index in llm-d's layout: a real index, a real Redis, and events
/// from the test.
///
/// Unchecked: `backend` is touched on the loop only.
final class UpstreamRouter: @unchecked Sendable {
    let index: KVIndex
    let registry = MetricsRegistry()
    private let loop: EventLoop
    private var backend: UpstreamIndexBackend?

    init(
        _ redis: RedisServer, pool: [ModelServer] = [pod(1)],
        keys: KVIndex.Configuration = smallBlocks,
        _ configure: (inout UpstreamIndexBackend.Configuration) -> Void = { _ in }
    ) async throws {
        var connection = RedisConfiguration(
            remote: .tcp(redis.address))
        connection.reconnectDelay = .milliseconds(5)...(.milliseconds(50))
        connection.connectTimeout = .seconds(1)
        connection.commandTimeout = .seconds(1)
        var configuration = UpstreamIndexBackend.Configuration(redis: connection)
        configuration.pollInterval = .milliseconds(10)
        configuration.refreshInterval = .milliseconds(1)
        configuration.settlingTime = .zero
        configure(&configuration)
        index = try KVIndex(configuration: keys)
        loop = try EventLoop.start(name: "router")
        let metrics = UpstreamIndexMetrics(registry)
        try await run { [configuration] in
            let environment = IndexSharingEnvironment(
                index: self.index, loop: self.loop,
                logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
            self.backend = try UpstreamIndexBackend(
                configuration, in: environment, metrics: metrics)
        }
        try await update(pool)
    }

    /// As an event source does: the index first, then who shares it.
    func update(_ pool: [ModelServer], leaving: [String] = []) async throws {
        try await run {
            for name in leaving {
                if let endpoint = self.index.endpoint(named: name) { self.index.remove(endpoint) }
            }
            for server in pool { _ = try self.index.register(server.name) }
            self.backend?.update(pool)
        }
    }

    /// An engine's events.
    func apply(
        at name: String = "pod1", model: String = "m",
        _ build: @escaping @Sendable (inout KVEventBatch) -> Void
    ) async throws {
        try await run {
            var batch = KVEventBatch()
            build(&batch)
            guard let endpoint = self.index.endpoint(named: name) else { return }
            var changes: [BlockChange] = []
            self.index.apply(batch, from: endpoint, model: model, recording: &changes)
            self.backend?.applied(changes, at: name)
        }
    }

    func keys(of tokens: [UInt32]) -> [UInt64] {
        index.hasher(model: "m").keys(of: tokens.span)
    }

    /// Looks a prompt up as a request does: the blocks that an endpoint holds by the index, and in
    /// the meantime Redis is asked.
    func match(_ tokens: [UInt32], on name: String = "pod1") -> PrefixMatch? {
        let keys = keys(of: tokens)
        var matches = PrefixMatches()
        index.match(keys.span, at: .now, into: &matches)
        index.recentLookups.note(keys)
        return index.endpoint(named: name).map { matches[$0] }
    }

    func matched(_ tokens: [UInt32], on name: String = "pod1") -> Int {
        match(tokens, on: name)?.blockCount ?? 0
    }

    func metric(_ name: String) -> Double? {
        let page = String(decoding: registry.exposition(), as: UTF8.self)
        return page.split(separator: "\n")
            .first { $0.hasPrefix("llm_d_epp_kv_cache_redis_\(name) ") }
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

/// Keys as llm-d's routers make them by default, of blocks of four tokens.
let smallBlocks = {
    var configuration = KVIndex.Configuration()
    configuration.blockSize = 4
    configuration.algorithm = .cborFNV
    return configuration
}()

/// A model server whose address is of its own.
func pod(_ number: Int) -> ModelServer {
    ModelServer(
        name: "pod\(number)", address: SocketAddress(host: "10.0.0.\(number)", port: 8000))
}

/// The field that llm-d's routers write for a block of a pod.
func goField(
    _ number: Int, _ tier: String = "gpu", group: Int? = nil, speculative: Bool = false
) -> String {
    #"{"PodIdentifier":"10.0.0.\#(number):8000","DeviceTier":"\#(tier)","#
        + #""Speculative":\#(speculative),"HasGroup":\#(group != nil),"GroupIdx":\#(group ?? 0)}"#
}

extension KVEventBatch {
    mutating func store(
        _ hashes: [UInt64], parent: UInt64? = nil, tokens: [UInt32], tier: Tier = .gpu,
        group: Int? = nil
    ) {
        var stored = BlocksStored()
        stored.hashes = self.hashes.count..<self.hashes.count + hashes.count
        stored.tokens = self.tokens.count..<self.tokens.count + tokens.count
        self.hashes += hashes
        self.tokens += tokens
        stored.parent = parent
        stored.blockSize = hashes.isEmpty ? 0 : tokens.count / hashes.count
        stored.tier = tier
        stored.group = group
        events.append(.stored(stored))
    }

    mutating func remove(_ hashes: [UInt64], tier: Tier = .gpu) {
        var removed = BlocksRemoved()
        removed.hashes = self.hashes.count..<self.hashes.count + hashes.count
        self.hashes += hashes
        removed.tier = tier
        events.append(.removed(removed))
    }

    mutating func clear() { events.append(.allCleared) }
}
