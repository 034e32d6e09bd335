// Scattered blocks between two processes, over each path, beside bare loops that do the same.
//
// The program starts itself again as the listening side. Block numbers are permuted and every other
// block is used, so that no two neighbours can be merged. `best` is the fastest transfer of a round
// as the caller sees it, from submission to the drained completion; `CPU` is the initiator's.

import CTransferFloor
import Core
import Foundation
import PerfSupport
import Transfer

let poolByteCount = 64 << 20
let rounds = 9
let transfersPerRound = 30
let cases = [(count: 1024, byteCount: 16 << 10), (count: 64, byteCount: 256 << 10)]

// MARK: The listening side

func serve() throws {
    let engine = try TransferEngine()
    let regions = try cases.map { shape in
        try KVRegion(
            on: engine, blockCount: poolByteCount / shape.byteCount,
            blockByteCount: shape.byteCount)
    }
    for region in regions {
        for block in 0..<region.blockCount {
            region[block].initializeMemory(as: UInt8.self, repeating: UInt8(block % 251 + 1))
        }
    }
    let address = try engine.listen(on: SocketAddress(host: "127.0.0.1", port: 0))
    var floorPort: UInt16 = 0
    let listener = ctf_listen(&floorPort)
    guard listener >= 0 else { throw PerfError("no socket for the floor") }
    try FileHandle.standardOutput.write(contentsOf: Data("\(address.port) \(floorPort)\n".utf8))
    withExtendedLifetime(regions) { ctf_serve(listener, regions[0][0].baseAddress) }
}

// MARK: The connecting side

/// Seconds of the wall and of this process's CPU.
struct Cost {
    var wall: Double
    var cpu: Double
}

func cost(_ body: () throws -> Void) rethrows -> Cost {
    let cpu = processCPUNanoseconds()
    let start = MonotonicTime.now
    try body()
    let wall = (MonotonicTime.now - start).seconds
    return Cost(wall: wall, cpu: Double(processCPUNanoseconds() - cpu) / 1e9)
}

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
        engine.drain { _ in }
    }
    return peer
}

/// What the rounds showed of one way to move the blocks.
struct Figures {
    var best: PerfSupport.Measurement
    var cpu: PerfSupport.Measurement
}

/// Runs bodies in turn and returns per body its best GB/s and GB per CPU-second of every round.
func measure(byteCount: Int, _ bodies: [() throws -> Void]) throws -> [Figures] {
    let gigabytes = Double(byteCount) / 1e9
    var best = [[Double]](repeating: [], count: bodies.count)
    var cpu = best
    for round in 0...rounds {
        for (index, body) in bodies.enumerated() {
            let costs = try (0..<transfersPerRound).map { _ in try cost(body) }
            guard round > 0 else { continue }
            best[index].append(gigabytes / (costs.map(\.wall).min() ?? .infinity))
            cpu[index].append(
                gigabytes * Double(costs.count) / costs.reduce(0) { $0 + $1.cpu })
        }
    }
    return zip(best, cpu).map { Figures(best: .init(rounds: $0), cpu: .init(rounds: $1)) }
}

/// Every other block of `2 * count`, from both sides in another order.
func blockNumbers(count: Int) -> (local: [UInt32], remote: [UInt32]) {
    (
        (0..<count).map { UInt32(2 * $0) },
        (0..<count).map { UInt32(2 * (($0 * 7 + 3) % count)) }
    )
}

func verify(_ region: KVRegion, _ local: [UInt32], holds remote: [UInt32]) throws {
    for (block, origin) in zip(local, remote)
    where !region[Int(block)].allSatisfy({ $0 == UInt8(Int(origin) % 251 + 1) }) {
        throw PerfError("block \(block) does not hold the bytes of \(origin)")
    }
}

func printRows(
    _ name: String, _ ours: Figures,
    floor: Figures?
) throws {
    try Row(
        suite: "transfer", name: name, metric: "best transfer", unit: "GB/s", ours: ours.best,
        floor: floor?.best.median
    ).print()
    try Row(
        suite: "transfer", name: name, metric: "CPU of initiator", unit: "GB/CPU-s",
        ours: ours.cpu, floor: floor?.cpu.median
    ).print()
}

func measureTransfers(to address: SocketAddress, floorPort: UInt16) throws {
    let engine = try TransferEngine()
    let floorSocket = ctf_connect(floorPort)
    guard floorSocket >= 0 else { throw PerfError("no connection to the floor") }
    defer { close(floorSocket) }
    for (index, shape) in cases.enumerated() {
        let blockCount = poolByteCount / shape.byteCount
        let pool = try KVRegion(
            on: engine, blockCount: blockCount, blockByteCount: shape.byteCount)
        let other = try KVRegion(
            on: engine, blockCount: blockCount, blockByteCount: shape.byteCount)
        for block in 0..<blockCount {
            other[block].initializeMemory(as: UInt8.self, repeating: 1)
        }
        let blocks = blockNumbers(count: shape.count)
        let localMemory = pool[0].baseAddress
        for path in TransferPath.allCases {
            let peer = try connect(engine, to: address, over: path)
            let remote = peer.regions[index]
            let read = {
                _ = try peer.read(blocks.remote, of: remote, into: blocks.local, of: pool)
                try finish(on: engine)
            }
            let write = {
                _ = try peer.write(blocks.local, of: pool, over: blocks.remote, of: remote)
                try finish(on: engine)
            }
            let floor = {
                switch path {
                case .memfd, .cma:
                    ctf_copy(
                        localMemory, blocks.local, other[0].baseAddress, blocks.remote,
                        shape.count, shape.byteCount)
                case .tcp:
                    guard
                        ctf_fetch(
                            floorSocket, localMemory, blocks.local, shape.count, shape.byteCount)
                            == 0
                    else { throw PerfError("the floor's connection broke") }
                }
            }
            // The read puts the remote bytes where the write then takes them from, so that they
            // stay what they were.
            try read()
            try verify(pool, blocks.local, holds: blocks.remote)
            let byteCount = shape.count * shape.byteCount
            let figures = try measure(byteCount: byteCount, [floor, read, write])
            try read()
            try verify(pool, blocks.local, holds: blocks.remote)
            let name = "\(path.rawValue), \(shape.count) x \(shape.byteCount >> 10) KiB"
            try printRows("\(name), read", figures[1], floor: figures[0])
            try printRows("\(name), write", figures[2], floor: nil)
        }
    }
}

runSuite {
    if CommandLine.arguments.dropFirst() == ["serve"] { return try serve() }
    let server = try MeasuredProcess.itself(as: "serve")
    let ports = server.firstLine.split(separator: " ").compactMap { UInt16($0) }
    guard ports.count == 2 else { throw PerfError("the listening side named no two ports") }
    try measureTransfers(
        to: SocketAddress(host: "127.0.0.1", port: ports[0]), floorPort: ports[1])
}
