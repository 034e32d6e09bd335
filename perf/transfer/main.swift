// Scattered blocks between two processes, over each path, beside bare loops that do the same and
// beside what others take for it.
//
// The program starts itself again as the listening side. Block numbers are permuted and every other
// block is used, so that no two neighbours can be merged. `best` is the fastest transfer of a round
// as the caller sees it, from submission to the drained completion; `CPU` is the initiator's.
// Bytes of reads and of writes are checked. Over memfd both sides have pools; over cma and tcp they
// have plain memory that was registered, as a model server's tensors would be.

import CTransferFloor
import Core
import Foundation
import PerfSupport
import Transfer

let poolByteCount = 64 << 20
let rounds = 5
let bytesPerRound = 128 << 20
let shapes = [
    Shape(count: 1024, byteCount: 16 << 10), Shape(count: 64, byteCount: 256 << 10),
    Shape(count: 1, byteCount: 1 << 20), Shape(count: 1, byteCount: 16 << 20),
]

/// So many blocks of one size.
struct Shape {
    var count: Int
    var byteCount: Int

    var totalByteCount: Int { count * byteCount }
    var transfersPerRound: Int { min(bytesPerRound / totalByteCount, 100) }
    var blocksInPool: Int { poolByteCount / byteCount }

    var name: String {
        let size =
            byteCount < 1 << 20 ? "\(byteCount >> 10) KiB" : "\(byteCount >> 20) MiB"
        return count == 1 ? size : "\(count) x \(size)"
    }

    /// Every other block of `2 * count`, on the two sides in different order.
    var blocks: (local: [UInt32], remote: [UInt32]) {
        (
            (0..<count).map { UInt32(2 * $0) },
            (0..<count).map { UInt32(2 * (($0 * 7 + 3) % count)) }
        )
    }
}

/// What block `number` of the listening side holds.
func pattern(_ number: Int) -> UInt8 { UInt8(number % 251 + 1) }

/// A pool, or plain memory that is registered.
func makeRegion(on engine: TransferEngine, _ shape: Shape, isPool: Bool) throws -> KVRegion {
    if isPool {
        return try KVRegion(
            on: engine, blockCount: shape.blocksInPool, blockByteCount: shape.byteCount)
    }
    let memory = mmap(
        nil, poolByteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let memory, memory != MAP_FAILED else { throw PerfError("no memory") }
    madvise(memory, poolByteCount, MADV_HUGEPAGE)
    return try KVRegion(
        on: engine, over: UnsafeMutableRawBufferPointer(start: memory, count: poolByteCount),
        blockByteCount: shape.byteCount)
}

// MARK: The listening side

/// Regions 2i and 2i + 1 are the pool and the plain memory of shape i.
func serve() throws {
    let engine = try TransferEngine()
    let regions = try shapes.flatMap { shape in
        try [true, false].map { try makeRegion(on: engine, shape, isPool: $0) }
    }
    for region in regions {
        for block in 0..<region.blockCount {
            region[block].initializeMemory(as: UInt8.self, repeating: pattern(block))
        }
    }
    let address = try engine.listen(on: SocketAddress(host: "127.0.0.1", port: 0))
    var floorPort: UInt16 = 0
    let listener = ctf_listen(&floorPort)
    guard listener >= 0 else { throw PerfError("no socket for the floor") }
    let places = regions.map { "\(UInt(bitPattern: $0[0].baseAddress))" }.joined(separator: " ")
    try FileHandle.standardOutput.write(
        contentsOf: Data("\(address.port) \(floorPort) \(getpid()) \(places)\n".utf8))
    withExtendedLifetime(regions) { ctf_serve(listener, regions[0][0].baseAddress) }
}

/// What the listening side says of itself.
struct Server {
    var address: SocketAddress
    var floorPort: UInt16
    var processID: Int32
    var places: [UInt64]

    init(_ line: String) throws {
        let numbers = line.split(separator: " ").compactMap { UInt64($0) }
        guard numbers.count == 3 + 2 * shapes.count else {
            throw PerfError("the listening side said '\(line)'")
        }
        address = SocketAddress(host: "127.0.0.1", port: UInt16(numbers[0]))
        floorPort = UInt16(numbers[1])
        processID = Int32(numbers[2])
        places = Array(numbers.dropFirst(3))
    }
}

// MARK: The connecting side

/// Waits for the only transfer in flight.
func finish(on engine: TransferEngine) throws {
    var completion: Completion?
    while completion == nil {
        var descriptor = pollfd(fd: engine.completionDescriptor, events: Int16(POLLIN), revents: 0)
        poll(&descriptor, 1, 10_000)
        engine.drain { event in
            if case .finished(let finished) = event { completion = finished }
        }
    }
    if let error = completion?.error { throw error }
}

func connect(_ engine: TransferEngine, to address: SocketAddress, over path: TransferPath) throws
    -> TransferPeer
{
    let peer = try engine.connect(to: address, paths: [path])
    while peer.path == nil {
        var descriptor = pollfd(fd: engine.completionDescriptor, events: Int16(POLLIN), revents: 0)
        poll(&descriptor, 1, 10_000)
        engine.drain { event in
            if case .peerDown(_, let error) = event { preconditionFailure("\(path): \(error)") }
        }
    }
    return peer
}

/// Runs a transfer as often as a round asks for it.
func timed(_ shape: Shape, _ body: () throws -> Void) rethrows -> Round {
    var round = Round(count: shape.transfersPerRound, best: .infinity, total: 0)
    let cpu = processCPUNanoseconds()
    for _ in 0..<shape.transfersPerRound {
        let start = MonotonicTime.now
        try body()
        let seconds = (MonotonicTime.now - start).seconds
        round.best = min(round.best, seconds)
        round.total += seconds
    }
    round.cpu = Double(processCPUNanoseconds() - cpu) / 1e9
    return round
}

/// GB/s, and GB per CPU-second, of the rounds of one way to move a shape.
struct Figures {
    var best: PerfSupport.Measurement
    var mean: PerfSupport.Measurement
    var cpu: PerfSupport.Measurement?

    init(_ shape: Shape, _ rounds: [Round]) {
        let one = Double(shape.totalByteCount) / 1e9
        best = .init(rounds: rounds.map { one / $0.best })
        mean = .init(rounds: rounds.map { one * Double($0.count) / $0.total })
        let cpus = rounds.compactMap { round in
            round.cpu.map { one * Double(round.count) / $0 }
        }
        cpu = cpus.isEmpty ? nil : .init(rounds: cpus)
    }
}

/// Runs all ways in turn, round by round; the first round warms up.
func measure(_ shape: Shape, _ ways: [String: () throws -> Round]) throws -> [String: Figures] {
    var results: [String: [Round]] = [:]
    for round in 0...rounds {
        for (name, way) in ways.sorted(by: { $0.key < $1.key }) {
            let result = try way()
            if round > 0 { results[name, default: []].append(result) }
        }
    }
    return results.mapValues { Figures(shape, $0) }
}

/// One shape over one path.
struct Case {
    var shape: Shape
    var path: TransferPath
    var local: KVRegion
    var remote: RemoteRegion
    var peer: TransferPeer
    var engine: TransferEngine

    func read() throws {
        let blocks = shape.blocks
        _ = try peer.read(blocks.remote, of: remote, into: blocks.local, of: local)
        try finish(on: engine)
    }

    func write() throws {
        let blocks = shape.blocks
        _ = try peer.write(blocks.local, of: local, over: blocks.remote, of: remote)
        try finish(on: engine)
    }

    func fill(_ value: (_ remoteBlock: Int) -> UInt8) {
        for (block, origin) in zip(shape.blocks.local, shape.blocks.remote) {
            local[Int(block)].initializeMemory(as: UInt8.self, repeating: value(Int(origin)))
        }
    }

    func expect(_ value: (_ remoteBlock: Int) -> UInt8) throws {
        for (block, origin) in zip(shape.blocks.local, shape.blocks.remote)
        where !local[Int(block)].allSatisfy({ $0 == value(Int(origin)) }) {
            throw PerfError("\(path), \(shape.name): block \(block) is not block \(origin)")
        }
    }

    /// Reads what is there, writes something else, reads it back and puts the first bytes back.
    func verify() throws {
        fill { _ in 0 }
        try read()
        try expect(pattern)
        fill { ~pattern($0) }
        try write()
        fill { _ in 0 }
        try read()
        try expect { ~pattern($0) }
        fill(pattern)
        try write()
    }
}

/// The median time of a submission alone, in microseconds, round by round.
func submissionTimes(_ one: Case) throws -> PerfSupport.Measurement {
    let blocks = one.shape.blocks
    return .init(
        rounds: try (0..<rounds).map { _ in
            let times = try (0..<51).map { _ in
                let start = MonotonicTime.now
                _ = try one.peer.read(
                    blocks.remote, of: one.remote, into: blocks.local, of: one.local)
                let seconds = (MonotonicTime.now - start).seconds
                try finish(on: one.engine)
                return seconds * 1e6
            }
            return times.sorted()[times.count / 2]
        })
}

func print(
    _ one: Case, _ operation: String, _ figures: [String: Figures], peers: [String],
    goals: [String: Row.Goal]
) throws {
    guard let ours = figures[operation], let cpu = ours.cpu else { return }
    let floor = figures["floor"]
    let name = "\(one.path.rawValue), \(one.shape.name), \(operation)"
    for peer in peers.isEmpty ? [nil] : peers.map(Optional.some) {
        let theirs = peer.flatMap { figures["\($0), \(operation)"] ?? figures[$0] }
        // iperf3 tells a mean, so it is held against ours.
        let isMean = peer == "iperf3"
        try Row(
            suite: "transfer", name: name, metric: isMean ? "all of a round" : "best transfer",
            unit: "GB/s", ours: isMean ? ours.mean : ours.best,
            peer: peer.flatMap { name in theirs.map { (name, $0.best.median) } },
            floor: isMean ? floor?.mean.median : floor?.best.median, goal: goals[peer ?? ""]
        ).print()
        guard let theirCPU = theirs?.cpu else { continue }
        try Row(
            suite: "transfer", name: name, metric: "CPU of initiator", unit: "GB/CPU-s", ours: cpu,
            peer: peer.map { ($0, theirCPU.median) }, floor: floor?.cpu?.median
        ).print()
    }
}

/// Who else moves such blocks that way, and what was asked for beside them.
func goals(_ one: Case) -> [String: Row.Goal] {
    let isSmall = one.shape.count == 1024
    return switch one.path {
    case .memfd: ["": .atLeastOfFloor(0.8), "NIXL": .atLeastOfFloor(0.8)]
    case .cma: ["NIXL": isSmall ? .atLeastOfPeer(3.5) : .atLeastOfPeer(1)]
    case .tcp: ["iperf3": .atLeastOfPeer(isSmall ? 0.85 : 0.8)]
    }
}

func measureTransfers(to server: Server) throws {
    let engine = try TransferEngine()
    let floorSocket = ctf_connect(server.floorPort)
    guard floorSocket >= 0 else { throw PerfError("no connection to the floor") }
    defer { close(floorSocket) }
    let nixl = try NIXLPeer(overTCP: false)
    let nixlOverTCP = try NIXLPeer(overTCP: true)
    let iperf = try Iperf()
    for path in TransferPath.allCases {
        let peer = try connect(engine, to: server.address, over: path)
        for (index, shape) in shapes.enumerated() {
            let place = 2 * index + (path == .memfd ? 0 : 1)
            let one = Case(
                shape: shape, path: path,
                local: try makeRegion(on: engine, shape, isPool: path == .memfd),
                remote: peer.regions.sorted { $0.generation < $1.generation }[place],
                peer: peer, engine: engine)
            let other = try makeRegion(on: engine, shape, isPool: true)
            for block in 0..<shape.blocksInPool {
                other[block].initializeMemory(as: UInt8.self, repeating: 1)
            }
            let blocks = shape.blocks
            let memory = one.local[0].baseAddress
            var ways: [String: () throws -> Round] = [
                "read": { try timed(shape, one.read) },
                "write": { try timed(shape, one.write) },
                "floor": {
                    try timed(shape) {
                        let status =
                            switch path {
                            case .memfd:
                                ctf_copy(
                                    memory, blocks.local, other[0].baseAddress, blocks.remote,
                                    shape.count, shape.byteCount)
                            case .cma:
                                ctf_attach(
                                    server.processID, memory, blocks.local, server.places[place],
                                    blocks.remote, shape.count, shape.byteCount)
                            case .tcp:
                                ctf_fetch(
                                    floorSocket, memory, blocks.local, shape.count,
                                    shape.byteCount)
                            }
                        guard status == 0 else { throw PerfError("the floor broke") }
                    }
                },
            ]
            var peers: [String] = []
            if path == .tcp, let iperf {
                peers.append("iperf3")
                ways["iperf3"] = {
                    let seconds =
                        Double(shape.totalByteCount) / (try iperf.rate(byteCount: bytesPerRound))
                    return Round(count: 1, best: seconds, total: seconds)
                }
            }
            if let nixl = path == .tcp ? nixlOverTCP : nixl {
                peers.append(nixl.name)
                for operation in ["read", "write"] {
                    ways["\(nixl.name), \(operation)"] = {
                        try nixl.round(
                            operation.uppercased(), count: shape.count,
                            byteCount: shape.byteCount,
                            times: path == .tcp ? 2 : shape.transfersPerRound)
                    }
                }
            }
            try one.verify()
            let figures = try measure(shape, ways)
            try one.verify()
            for operation in ["read", "write"] {
                try print(one, operation, figures, peers: peers, goals: goals(one))
            }
            if shape.count == 1024 {
                try Row(
                    suite: "transfer", name: "\(path.rawValue), \(shape.name), read",
                    metric: "submission", unit: "us", ours: submissionTimes(one),
                    goal: .atMost(10)
                ).print()
            }
        }
    }
}

runSuite {
    if CommandLine.arguments.dropFirst() == ["serve"] { return try serve() }
    let server = try MeasuredProcess.itself(as: "serve")
    try measureTransfers(to: Server(server.firstLine))
}
