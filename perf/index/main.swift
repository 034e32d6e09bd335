// The KV-cache index beside Dynamo's radix tree. The prompts are those of the peer's method: of
// 512 blocks, the first half shared with 15 others, each held by one of 256 engines. Our events are
// MessagePack with token ids, as engines send them, decoded and hashed; the peer's are JSON with
// hashes made beforehand.

import Core
import Hashing
import KVIndex
import PerfSupport

let million = 1_000_000
let workload = Workload(promptCount: million / Workload.blocksPerPrompt)

func makeIndex(_ algorithm: RequestKeyAlgorithm) throws -> (KVIndex, [EndpointHandle]) {
    var configuration = KVIndex.Configuration()
    configuration.algorithm = algorithm
    let index = try KVIndex(configuration: configuration)
    let engines = try (0..<Workload.engineCount).map { try index.register("engine-\($0)") }
    return (index, engines)
}

func row(
    _ name: String, _ metric: String, _ unit: String, _ ours: Measurement,
    peer: Peer.Figure? = nil, goal: Row.Goal? = nil
) throws {
    try Row(
        suite: "index", name: name, metric: metric, unit: unit, ours: ours,
        peer: peer.map { ($0.name, $0.value) }, goal: goal
    ).print()
}

let rounds = 5
let peer = try Peer(rounds: rounds, blockCount: million, engineCount: Workload.engineCount)

// MARK: - Events

/// Decoding, hashing and applying a million blocks; each round fills an index of its own, and the
/// peer runs a round of its own in between.
@MainActor
func measureEvents(_ algorithm: RequestKeyAlgorithm, goal: Double) throws -> KVIndex {
    var figures = (all: [Double](), decode: [Double](), hash: [Double](), small: [Double]())
    var last = try makeIndex(algorithm).0
    for round in 0...rounds {
        let (index, engines) = try makeIndex(algorithm)
        let hasher = index.hasher(model: "model")
        var batch = KVEventBatch()
        let decode = try cpuNanoseconds {
            for event in workload.events { try event.decode(into: &batch) }
        }
        let hash = cpuNanoseconds {
            for prompt in workload.prompts {
                precondition(hasher.keys(of: prompt.span).count == Workload.blocksPerPrompt)
            }
        }
        let all = try cpuNanoseconds {
            for (number, event) in workload.events.enumerated() {
                try event.decode(into: &batch)
                index.apply(
                    batch, from: engines[number % engines.count], model: "model")
            }
        }
        let small = try cpuNanoseconds {
            for (number, event) in workload.smallEvents.enumerated() {
                try event.decode(into: &batch)
                // Behind a prompt that the same engine holds.
                let engine = engines[number % workload.prompts.count % engines.count]
                index.apply(batch, from: engine, model: "model")
            }
            precondition(index.statistics.storesSkippedCount == 0)
        }
        last = index
        try peer?.runRound()
        guard round > 0 else { continue }
        let blocks = Double(workload.blockCount)
        figures.all.append(all / blocks / 1000)
        figures.decode.append(decode / blocks / 1000)
        figures.hash.append(hash / blocks / 1000)
        figures.small.append(small / Double(workload.smallEvents.count) / 1000)
    }
    let insert = zip(figures.all, zip(figures.decode, figures.hash)).map { $0 - $1.0 - $1.1 }
    let name = "512-block events, \(algorithm.rawValue) keys"
    try row(
        name, "decode, hash, insert", "us/block", Measurement(rounds: figures.all),
        peer: peer?.figure("apply"), goal: .atMost(goal))
    try row(name, "decode alone", "us/block", Measurement(rounds: figures.decode))
    try row(name, "hash alone", "us/block", Measurement(rounds: figures.hash))
    try row(name, "insert: the rest", "us/block", Measurement(rounds: insert))
    try row(
        "1-block events, \(algorithm.rawValue) keys", "decode, hash, insert", "us/event",
        Measurement(rounds: figures.small), peer: peer?.figure("small"), goal: .atMost(2))
    return last
}

// MARK: - Memory

@MainActor
func measureMemory() throws {
    // Every block held by one engine.
    let (index, engines) = try makeIndex(.xxh64)
    let empty = index.statistics.byteCount
    var batch = KVEventBatch()
    for (number, event) in workload.unsharedEvents.enumerated() {
        try event.decode(into: &batch)
        index.apply(batch, from: engines[number % engines.count], model: "model")
    }
    let before = index.statistics
    try row(
        "\(before.engineBlockCount) entries, each block held once", "memory", "B/entry",
        Measurement(rounds: [Double(before.byteCount - empty) / Double(before.engineBlockCount)]),
        peer: peer?.figure("memory"), goal: .atMost(64))
    // Further engines hold the first sixteenth of the prompts as well.
    let shared = workload.unsharedEvents.prefix(workload.unsharedEvents.count / 16)
    for count in [1, 7, 31, 127] {
        let before = index.statistics
        for offset in 1...count {
            for (number, event) in shared.enumerated() {
                try event.decode(into: &batch)
                let engine = engines[(number + offset) % engines.count]
                index.apply(batch, from: engine, model: "model")
            }
        }
        let after = index.statistics
        let entries = after.engineBlockCount - before.engineBlockCount
        if entries == 0 { continue }
        try row(
            "up to \(count + 1) engines hold the same block", "memory", "B/further entry",
            Measurement(
                rounds: [Double(after.byteCount - before.byteCount) / Double(entries)]),
            goal: .atMost(24))
    }
}

// MARK: - Lookups

struct LookupTimes {
    var median: [Double] = []
    var p90: [Double] = []
}

/// The thread's CPU time of each of many lookups of different prompts, in us.
func measureLookups(of keys: [[UInt64]], in index: KVIndex, into times: inout LookupTimes) {
    var matches = PrefixMatches()
    var samples: [Double] = []
    var number = 0
    for _ in 0..<2000 {
        number = (number + 7919) % keys.count
        let prompt = keys[number]
        let start = threadCPUNanoseconds()
        index.match(prompt.span, at: .now, into: &matches)
        samples.append(Double(threadCPUNanoseconds() - start) / 1000)
        precondition(!matches.endpoints.isEmpty)
    }
    samples.sort()
    times.median.append(samples[samples.count / 2])
    times.p90.append(samples[samples.count * 9 / 10])
}

@MainActor
func measureLookups(in index: KVIndex) throws {
    let hasher = index.hasher(model: "model")
    let keys = workload.prompts.map { hasher.keys(of: $0.span) }
    let (all, engines) = try makeIndex(.xxh64)
    var batch = KVEventBatch()
    for event in workload.events {
        try event.decode(into: &batch)
        all.apply(batch, from: engines[0], model: "model")
    }
    // One prompt that all engines hold, and one of which each holds another length.
    try workload.events[0].decode(into: &batch)
    for engine in engines { all.apply(batch, from: engine, model: "model") }
    try workload.events[20].decode(into: &batch)
    let graded = Workload.removals(of: batch)
    for (number, engine) in engines.enumerated() {
        all.apply(batch, from: engine, model: "model")
        all.apply(graded[number], from: engine, model: "model")
    }
    var (mixed, same, lengths, busy) =
        (LookupTimes(), LookupTimes(), LookupTimes(), LookupTimes())
    var rate = 0.0
    for _ in 0..<rounds {
        measureLookups(of: keys, in: index, into: &mixed)
        let writer = Writer(index)
        measureLookups(of: keys, in: index, into: &busy)
        rate = writer.stop()
        measureLookups(of: [keys[0]], in: all, into: &same)
        measureLookups(of: [keys[20]], in: all, into: &lengths)
        try peer?.runRound()
    }
    let name = "512 blocks, 256 engines, 1M blocks"
    try row(
        "\(name), half shared by 16", "CPU of the thread", "us/lookup",
        Measurement(rounds: mixed.median), peer: peer?.figure("lookup"), goal: .atMost(15))
    try row(
        "\(name), all hold all", "CPU of the thread", "us/lookup",
        Measurement(rounds: same.median), goal: .atMost(15))
    try row(
        "\(name), each holds another length", "CPU of the thread", "us/lookup",
        Measurement(rounds: lengths.median), goal: .atMost(15))
    try row(
        "\(name), p90", "CPU of the thread", "us/lookup", Measurement(rounds: mixed.p90))
    let beside = "beside a writer of \(Int(rate / 1000))k blocks/s"
    try row(
        beside, "median, ratio to idle", "",
        Measurement(rounds: zip(busy.median, mixed.median).map { $0 / $1 }), goal: .atMost(2))
    try row(
        beside, "p90, ratio to idle", "",
        Measurement(rounds: zip(busy.p90, mixed.p90).map { $0 / $1 }), goal: .atMost(2))
}

_ = try measureEvents(.cborFNV, goal: 0.35)
let index = try measureEvents(.xxh64, goal: 0.20)
try measureMemory()
try measureLookups(in: index)
