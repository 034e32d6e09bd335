// What the gateway costs between a client and its engines, beside a proxy that looks at nothing and
// one that everybody knows: a request and its answer, and an event of a streamed answer.
//
// The proxies run in processes of their own; the client and the engines are this one. 16 requests
// are in flight at any time.

import CRelayFloor
import Core
import Foundation
import Net
import PerfSupport

private struct Proxy {
    var process: MeasuredProcess
    var port: UInt16
}

private func startGateway(_ engines: [SocketAddress]) throws -> Proxy {
    let ports = try freePorts(2)
    let endpoints = engines.enumerated().flatMap { index, engine in
        ["--endpoint", "name=engine-\(index),address=\(engine)"]
    }
    let process = try MeasuredProcess.llmd(
        [
            "gateway", "--host", "127.0.0.1", "--policy", "load", "--port", "\(ports[0])",
            "--metrics-port", "\(ports[1])",
        ] + endpoints)
    return Proxy(process: process, port: ports[0])
}

private func startFloor(_ engines: [SocketAddress]) throws -> Proxy {
    let process = try MeasuredProcess.itself(as: "floor", "\(engines[0].port)")
    return Proxy(process: process, port: try process.port)
}

/// nginx, if `perf/peers` installed it.
private func startPeer(_ engines: [SocketAddress]) throws -> Proxy? {
    let program = ".build/peers/nginx/usr/sbin/nginx"
    guard FileManager.default.isExecutableFile(atPath: program) else { return nil }
    let port = try freePorts(1)[0]
    let folder = ".build/peers/nginx-run"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let servers = engines.map { "server \($0);" }.joined(separator: " ")
    try String(contentsOfFile: "perf/gateway/nginx.conf", encoding: .utf8)
        .replacingOccurrences(of: "PORT", with: String(port))
        .replacingOccurrences(of: "ENGINES", with: servers)
        .write(toFile: "\(folder)/nginx.conf", atomically: true, encoding: .utf8)
    let process = try MeasuredProcess(
        program, ["-p", folder, "-c", "nginx.conf", "-e", "stderr"], listeningOn: port)
    return Proxy(process: process, port: port)
}

private func measure() throws {
    let engines = try Engines.start(4, on: EventLoopGroup(count: 1, name: "engines"))
    let client = HTTPClient(on: try EventLoop.start(name: "client"))
    let proxies =
        [try startGateway(engines), try startFloor(engines)]
        + [try startPeer(engines)].compactMap(\.self)
    let eventBytes = Engines.event.count * Engines.eventCount
    let cases: [(name: String, unit: String, shape: Load.Shape, count: Int, parts: Int)] = [
        (
            "chat of 4 KiB", "us/request",
            .init(
                body: Engines.chat(textBytes: 4 << 10), accept: "application/json",
                answerBytes: Engines.answer.utf8.count),
            1000, 1
        ),
        (
            "event of a streamed answer", "us/event",
            .init(
                body: Engines.chat(textBytes: 100, isStreamed: true),
                accept: "text/event-stream", answerBytes: eventBytes),
            32, Engines.eventCount
        ),
    ]
    for (name, unit, shape, count, parts) in cases {
        let figures = try measureCPUTime(
            proxies.map { proxy in
                Contender(operations: count * parts, in: proxy.process) {
                    try Load.run(shape, count: count, to: proxy.port, through: client)
                }
            }
        ).map { $0.scaled(by: 1e-3) }
        try Row(
            suite: "gateway", name: name, metric: "CPU time", unit: unit, ours: figures[0],
            peer: figures.count > 2 ? ("nginx", figures[2].median) : nil,
            floor: figures[1].median
        ).print()
    }
}

runSuite {
    let arguments = CommandLine.arguments.dropFirst()
    if arguments.first == "floor", let port = arguments.last.flatMap({ UInt16($0) }) {
        crf_relay(port) { port in
            FileHandle.standardOutput.write(Data("\(port)\n".utf8))
        }
        throw PerfError("the floor cannot start")
    }
    try measure()
}
