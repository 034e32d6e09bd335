// What the gateway costs between a client and its engines, beside a proxy that looks at nothing and
// some that everybody knows: a request and its answer, and an event of a streamed answer.
//
// The proxies run in processes of their own; the client and the engines are this one.

import CRelayFloor
import Core
import Foundation
import Net
import PerfSupport

private let unary = Load.Shape(
    path: "/v1/chat/completions", body: Engines.chat(textBytes: 4 << 10),
    answerBytes: Engines.answer.utf8.count, concurrentCount: 16)
private let alone = Load.Shape(
    path: unary.path, body: unary.body, answerBytes: unary.answerBytes, concurrentCount: 1)
private let streamed = Load.Shape(
    path: "/v1/completions", body: Engines.streamedCompletion,
    answerBytes: Engines.event.count * Engines.eventCount, concurrentCount: 64)

/// Some proxies listen before they know their engines.
private func waitForAnswers(of proxy: Proxy, through client: HTTPClient) throws {
    for attempt in 1... {
        do {
            try Load.run(unary, count: 1, to: proxy.port, through: client)
            return
        } catch {
            guard attempt < 100 else { throw PerfError("\(proxy.name): \(error)") }
            usleep(100_000)
        }
    }
}

private func measure() throws {
    let engines = try Engines.start(4, on: EventLoopGroup(count: 1, name: "engines"))
    let client = HTTPClient(on: try EventLoop.start(name: "client"))
    let peers = try startPeers(engines)
    let proxies = [try startGateway(engines), try startFloor(engines)] + peers
    for proxy in proxies { try waitForAnswers(of: proxy, through: client) }
    for (name, unit, shape, count, parts, goals) in [
        ("chat of 4 KiB", "us/request", unary, 1000, 1, ["Envoy": 0.6, sglang: 0.4]),
        (
            "event of a streamed answer", "us/event", streamed, 64, Engines.eventCount,
            ["Envoy": 0.75]
        ),
    ] {
        let figures = try measureCPUTime(
            proxies.map { proxy in
                Contender(operations: count * parts, in: proxy.process) {
                    try Load.run(shape, count: count, to: proxy.port, through: client)
                }
            }
        ).map { $0.scaled(by: 1e-3) }
        let rivals = zip(peers, figures.dropFirst(2)).map { ($0.name, $1.median) }
        for rival in rivals.isEmpty ? [nil] : rivals.map(Optional.some) {
            try Row(
                suite: "gateway", name: name, metric: "CPU time", unit: unit, ours: figures[0],
                peer: rival, floor: figures[1].median,
                goal: rival.flatMap { goals[$0.0] }.map { .ratioToPeer(atMost: $0) }
            ).print()
        }
    }
    try measureAddedLatency(proxies, engines[0], client)
}

/// What a proxy adds to the median time of a request that is alone.
private func measureAddedLatency(
    _ proxies: [Proxy], _ engine: SocketAddress, _ client: HTTPClient
) throws {
    var added = [[Double]](repeating: [], count: proxies.count)
    for _ in 0..<9 {
        let direct = try Load.run(alone, count: 200, to: engine.port, through: client)
        for (index, proxy) in proxies.enumerated() {
            let time = try Load.run(alone, count: 200, to: proxy.port, through: client)
            added[index].append((time - direct) / .microseconds(1))
        }
    }
    let figures = added.map(Measurement.init(rounds:))
    for (proxy, figure) in zip(proxies, figures).dropFirst(2) {
        try Row(
            suite: "gateway", name: "chat of 4 KiB, alone", metric: "added p50", unit: "us",
            ours: figures[0], peer: (proxy.name, figure.median), floor: figures[1].median,
            goal: proxy.name == sglang ? .ratioToPeer(atMost: 1) : nil
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
