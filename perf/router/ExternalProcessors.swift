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

    func drive(_ exchange: Exchange, count: Int, concurrentCount: Int = 16) throws {
        if let problem = exchange.withC({ cxe_drive(port, &$0, count, concurrentCount) }) {
            throw PerfError("port \(port): \(String(cString: problem))")
        }
    }

    func contender(_ exchange: Exchange, requestCount: Int) -> Contender {
        let requests = max(requestCount / slowness, 16)
        return Contender(operations: requests * max(1, exchange.eventCount), in: process) {
            try drive(exchange, count: requests)
        }
    }
}

/// What is taken past a processor.
private struct Exchange {
    var path = "/v1/chat/completions"
    var body: [UInt8]
    var eventCount = 0

    func withC<Result>(_ use: (inout cxe_exchange) -> Result) -> Result {
        path.withCString { path in
            body.withUnsafeBufferPointer { body in
                var exchange = cxe_exchange(
                    path: path, body: body.baseAddress, body_bytes: body.count,
                    event_count: eventCount)
                return use(&exchange)
            }
        }
    }
}

/// Upstream's default profile: queue, KV cache and the approximate prefix.
let standardConfiguration = """
    apiVersion: llm-d.ai/v1alpha1
    kind: EndpointPickerConfig
    """
/// The same over the index that events fill. Nobody sends events: what was decided is expected.
let preciseConfiguration =
    standardConfiguration + """

        plugins:
        - type: precise-prefix-cache-producer
          parameters: {speculativeIndexing: true, tokenProcessorConfig: {blockSize: 64}}
        - {type: queue-scorer}
        - {type: kv-cache-utilization-scorer}
        - type: prefix-cache-scorer
          parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
        schedulingProfiles:
        - name: default
          plugins:
          - {pluginRef: queue-scorer, weight: 2}
          - {pluginRef: kv-cache-utilization-scorer, weight: 2}
          - {pluginRef: prefix-cache-scorer, weight: 3}
        """

/// `llmd router` as it is shipped, but without TLS, which the others do not have.
private func startRouter(
    _ engines: some Sequence<SocketAddress>, _ configuration: String
) throws -> Processor {
    let ports = try freePorts(3)
    let endpoints = engines.enumerated().flatMap { index, engine in
        ["--endpoint", "name=engine-\(index),address=\(engine)"]
    }
    let process = try MeasuredProcess.llmd(
        [
            "router", "--host", "127.0.0.1", "--loops", "1", "--no-secure-serving",
            "--config-text", configuration, "--grpc-port", "\(ports[0])",
            "--grpc-health-port", "\(ports[1])", "--metrics-port", "\(ports[2])",
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

private struct Case {
    var name: String
    var router: Processor
    var exchange: Exchange
    var requestCount: Int
    var goal: Row.Goal
}

func measureExternalProcessors() throws {
    let tokenCount = 100_000
    let group = try EventLoopGroup(count: 1, name: "engines")
    let engines = try Engines.start(100, on: group, renderedTokenCount: tokenCount)
    let few = try startRouter(engines.prefix(16), standardConfiguration)
    let standard = try startRouter(engines, standardConfiguration)
    let precise = try startRouter(engines, preciseConfiguration)
    let floorProcess = try MeasuredProcess.itself(as: "floor")
    let floor = Processor(process: floorProcess, port: try floorProcess.port)
    let peer = try startPeer()

    let small = Engines.chat(textBytes: 4 << 10)
    let ids = Exchange(
        path: "/v1/completions", body: Engines.completion(tokenCount: tokenCount))
    let text = Exchange(body: Engines.chat(textBytes: 450 << 10))
    let cases = [
        Case(
            name: "chat of 4 KiB, 16 endpoints", router: few, exchange: Exchange(body: small),
            requestCount: 2000, goal: .ratioToFloor(atMost: 2, plus: 15)),
        Case(
            name: "event of a streamed response", router: few,
            exchange: Exchange(body: small, eventCount: Engines.eventCount), requestCount: 64,
            goal: .ratioToFloor(atMost: 2)),
        Case(
            name: "100k token ids, precise", router: precise, exchange: ids, requestCount: 160,
            goal: .atMost(3000)),
        Case(
            name: "450 KiB of text, approximate", router: standard, exchange: text,
            requestCount: 160, goal: .atMost(3000)),
        Case(
            name: "450 KiB of text, ids from an engine, precise", router: precise,
            exchange: text, requestCount: 160, goal: .atMost(5000)),
    ]
    for item in cases {
        let figures = try measureCPUTime(
            ([item.router, floor] + [peer].compactMap(\.self)).map {
                $0.contender(item.exchange, requestCount: item.requestCount)
            }
        ).map { $0.scaled(by: 1e-3) }
        try Row(
            suite: "router", name: "ext-proc, \(item.name)", metric: "CPU time",
            unit: item.exchange.eventCount == 0 ? "us/request" : "us/event", ours: figures[0],
            peer: figures.count > 2 ? ("Python, grpc.aio", figures[2].median) : nil,
            floor: figures[1].median, goal: item.goal
        ).print()
    }
    for (name, router, exchange) in [
        ("100k token ids, precise", precise, ids), ("450 KiB of text, approximate", standard, text),
    ] {
        let count = 64
        let rounds = try (0..<5).map { _ in
            let peak = try router.process.peakBytes {
                try router.drive(exchange, count: count, concurrentCount: count)
            }
            return Double(peak) / Double(count) / 1024
        }
        try Row(
            suite: "router", name: "ext-proc, \(name)", metric: "memory in flight",
            unit: "KiB/request", ours: Measurement(rounds: rounds),
            goal: .atMost(Double(exchange.body.count) / 512 + 64)
        ).print()
    }
}
