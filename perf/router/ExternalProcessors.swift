import CExtProcEnds
import Core
import Foundation
import Net
import PerfSupport

/// An external processor, and how many requests it gets in one round.
private struct Processor {
    var process: MeasuredProcess
    var port: UInt16
    var slowness = 1

    func contender(_ body: [UInt8], requestCount: Int) -> Contender {
        let requests = max(requestCount / slowness, 16)
        return Contender(operations: requests, in: process) {
            if let problem = cxe_drive(port, body, body.count, requests, 16) {
                throw PerfError("port \(port): \(String(cString: problem))")
            }
        }
    }
}

/// `llmd router` as it is shipped, but without TLS, which the others do not have.
private func startRouter(_ engines: [SocketAddress]) throws -> Processor {
    let ports = try freePorts(3)
    let endpoints = engines.enumerated().flatMap { index, engine in
        ["--endpoint", "name=engine-\(index),address=\(engine)"]
    }
    let process = try MeasuredProcess.llmd(
        [
            "router", "--host", "127.0.0.1", "--no-secure-serving", "--policy", "load",
            "--grpc-port", "\(ports[0])", "--grpc-health-port", "\(ports[1])",
            "--metrics-port", "\(ports[2])",
        ] + endpoints)
    return Processor(process: process, port: ports[0])
}

/// The peer, if `perf/peers` installed what it needs.
private func startPeer() throws -> Processor? {
    let python = ".build/peers/python/bin/python"
    guard FileManager.default.isExecutableFile(atPath: python) else { return nil }
    let process = try MeasuredProcess(python, ["perf/router/peer/extproc_server.py"])
    return Processor(process: process, port: try process.port, slowness: 10)
}

func measureExternalProcessors() throws {
    let group = try EventLoopGroup(count: 1, name: "engines")
    let engines = try Engines.start(4, on: group)
    let floorProcess = try MeasuredProcess.itself(as: "floor")
    let floor = Processor(process: floorProcess, port: try floorProcess.port)
    let processors = [try startRouter(engines), floor] + [try startPeer()].compactMap(\.self)
    let cases: [(name: String, textBytes: Int, requestCount: Int, goal: Row.Goal?)] = [
        ("chat of 4 KiB", 4 << 10, 2000, .ratioToFloor(atMost: 2)),
        ("chat of 100k tokens, 400 KiB", 400 << 10, 160, nil),
    ]
    for shape in cases {
        let body = Engines.chat(textBytes: shape.textBytes)
        let figures = try measureCPUTime(
            processors.map { $0.contender(body, requestCount: shape.requestCount) }
        ).map { $0.scaled(by: 1e-3) }
        try Row(
            suite: "router", name: "ext-proc, \(shape.name)", metric: "CPU time",
            unit: "us/request", ours: figures[0],
            peer: figures.count > 2 ? ("Python, grpc.aio", figures[2].median) : nil,
            floor: figures[1].median, goal: shape.goal
        ).print()
    }
}
