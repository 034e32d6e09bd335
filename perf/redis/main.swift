// What a redis-server spends on the index that routers share: a lookup of 512 blocks and a stored
// block, beside the layout of llm-d's indexer (a hash per block, HKEYS and HSET).

import Core
import Dispatch
import Foundation
import KVIndexIO
import Logging
import Net
import PerfSupport
import RedisClient
import Synchronization
import Telemetry

let blocksPerLookup = 512
let lookupsPerRound = 200
let endpointCount = 64

/// A client whose caller waits.
///
/// Unchecked: `client` and `backend` are touched on the loop only.
final class Bench: @unchecked Sendable {
    private let loop: EventLoop
    private var client: RedisClient?
    private var backend: RedisIndexBackend?
    private let configuration: RedisConfiguration

    init(port: UInt16) throws {
        loop = try EventLoop.start(name: "perf-redis")
        var configuration = RedisConfiguration(
            remote: .tcp(SocketAddress(host: "127.0.0.1", port: port)))
        configuration.commandTimeout = .seconds(60)
        self.configuration = configuration
        let ready = DispatchSemaphore(value: 0)
        try onLoop {
            self.client = try RedisClient(self.configuration, on: self.loop) { state in
                if state == .ready { ready.signal() }
            }
        }
        ready.wait()
    }

    func finish() throws {
        try onLoop {
            self.client?.close()
            self.backend?.close()
        }
        loop.shutdown()
    }

    /// Sends a pipeline and waits; what `read` makes of the replies.
    func send<Value: Sendable>(
        _ pipeline: RedisPipeline, _ read: @escaping @Sendable (RedisReplies) throws -> Value
    ) throws -> Value {
        let result = Mutex<Result<Value, any Error>?>(nil)
        let done = DispatchSemaphore(value: 0)
        try onLoop {
            try self.client?.send(pipeline) { replies in
                let value = Result { try read(replies.get()) }
                result.withLock { $0 = value }
                done.signal()
            }
        }
        done.wait()
        guard let value = try result.withLock({ try $0?.get() }) else {
            throw PerfError("no replies")
        }
        return value
    }

    /// Shares blocks as a router does that follows engines, an event for each prompt, and waits until
    /// Redis has them.
    func share(_ blocks: [SharedBlock]) throws {
        let starts = Array(stride(from: 0, to: blocks.count, by: blocksPerLookup))
        try onLoop {
            var configuration = RedisIndexBackend.Configuration(redis: self.configuration)
            configuration.maximumWaitingChanges = .max
            let backend = try RedisIndexBackend(
                configuration, replica: NoReplica(), on: self.loop,
                metrics: RedisIndexMetrics(MetricsRegistry()), logger: Logger(label: "perf"))
            backend.update((0..<endpointCount).map(endpointName))
            // With its first event the router begins to write an endpoint's blocks.
            for (number, start) in starts.prefix(endpointCount).enumerated() {
                backend.stored([blocks[start]], at: endpointName(number))
            }
            self.backend = backend
        }
        try waitForAgreement()
        try onLoop {
            for (number, start) in starts.enumerated() {
                self.backend?.stored(
                    blocks[start..<min(start + blocksPerLookup, blocks.count)],
                    at: endpointName(number % endpointCount))
            }
        }
        try waitForAgreement()
    }

    private func waitForAgreement() throws {
        repeat {
            Thread.sleep(forTimeInterval: 0.2)
        } while try onLoop { self.backend?.isAgreed != true }
    }

    @discardableResult
    private func onLoop<Value: Sendable>(_ body: @escaping @Sendable () throws -> Value) throws
        -> Value
    {
        let result = Mutex<Result<Value, any Error>?>(nil)
        let done = DispatchSemaphore(value: 0)
        loop.execute {
            let value = Result { try body() }
            result.withLock { $0 = value }
            done.signal()
        }
        done.wait()
        guard let value = try result.withLock({ try $0?.get() }) else {
            throw PerfError("the loop has ended")
        }
        return value
    }
}

final class NoReplica: SharedIndexReplica {
    func add(_ blocks: [SharedBlock], to endpoint: String) {}
    func remove(_ blocks: [SharedBlock], from endpoint: String) {}
}

func endpointName(_ number: Int) -> String { "10.0.0.\(number):8000" }

func freePort() -> UInt16 { UInt16.random(in: 20_000..<30_000) }

func startServer(_ port: UInt16) throws -> MeasuredProcess {
    try MeasuredProcess(
        "/usr/bin/redis-server",
        [
            "--port", "\(port)", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--logfile", "/dev/null",
        ], listeningOn: port)
}

func measure(blockCount: Int) throws {
    let blocks = (1...UInt64(blockCount)).map {
        SharedBlock(engineHash: $0, key: $0 &* 0x9e37_79b9_7f4a_7c15, tier: .gpu)
    }
    let (ourPort, peerPort) = (freePort(), freePort())
    let (ourServer, peerServer) = (try startServer(ourPort), try startServer(peerPort))
    let (ours, peer) = (try Bench(port: ourPort), try Bench(port: peerPort))

    var start = ourServer.cpuNanoseconds
    try ours.share(blocks)
    let storing = Double(ourServer.cpuNanoseconds - start) / Double(blockCount)
    start = peerServer.cpuNanoseconds
    for first in Swift.stride(from: 0, to: blockCount, by: blocksPerLookup) {
        var pipeline = RedisPipeline()
        let name = endpointName(first / blocksPerLookup % endpointCount) + "@gpu"
        for block in blocks[first..<min(first + blocksPerLookup, blockCount)] {
            pipeline.append("HSET", "\(block.key)", name, "1732291200")
        }
        _ = try peer.send(pipeline, \.count)
    }
    let peerStoring = Double(peerServer.cpuNanoseconds - start) / Double(blockCount)

    let lookup = RedisIndexLookup()
    var questions: [(ours: RedisPipeline, peer: RedisPipeline)] = []
    for index in 0..<lookupsPerRound {
        // Each of the prompts is held by one endpoint in full.
        let first = index * 7919 % (blockCount / blocksPerLookup) * blocksPerLookup
        let keys = blocks[first..<(first + blocksPerLookup)].map(\.key)
        var (mine, theirs) = (RedisPipeline(), RedisPipeline())
        lookup.append(keys, to: &mine)
        for key in keys { theirs.append("HKEYS", "\(key)") }
        questions.append((mine, theirs))
    }
    let figures = try measureCPUTime([
        Contender(operations: lookupsPerRound, in: ourServer) {
            for question in questions {
                let matches = try ours.send(question.ours) { try lookup.matches(in: $0) }
                guard matches.values.max() == blocksPerLookup else {
                    throw PerfError("a lookup found \(matches)")
                }
            }
        },
        Contender(operations: lookupsPerRound, in: peerServer) {
            for question in questions { _ = try peer.send(question.peer, \.count) }
        },
    ])
    try Row(
        suite: "redis", name: "lookup of 512 blocks, \(blockCount) blocks, 64 endpoints",
        metric: "server CPU time", unit: "us/lookup", ours: figures[0].scaled(by: 1e-3),
        peer: ("llm-d's layout", figures[1].median * 1e-3), goal: .ratioToPeer(atMost: 1)
    ).print()
    try Row(
        suite: "redis", name: "store, reverse set and feed included, \(blockCount) blocks",
        metric: "server CPU time", unit: "ns/block", ours: Measurement(rounds: [storing]),
        peer: ("llm-d's layout, HSET only", peerStoring)
    ).print()
    try ours.finish()
    try peer.finish()
}

runSuite {
    for blockCount in [100_352, 1_000_448] { try measure(blockCount: blockCount) }
}
