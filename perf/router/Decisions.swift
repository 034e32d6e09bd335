import Core
import KVIndex
import ModelServers
import PerfSupport
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry

private struct Headers: HeaderLookup {
    private let fields: [String: String]

    init(_ body: [UInt8]) {
        fields = [
            "content-length": String(body.count),
            "x-request-id": "0f0a4c5e-3c64-4b0f-9a30-4d0a9b2a6f11",
        ]
    }

    func value(ofHeader name: String) -> String? { fields[name] }
}

private func makeRouter(_ configuration: String, endpointCount: Int) throws -> Router {
    let pool = EndpointPool()
    let servers = (0..<endpointCount).map { number in
        ModelServer(
            name: "engine-\(number)",
            address: SocketAddress(host: "10.0.\(number / 250).\(number % 250)", port: 8000))
    }
    pool.update(servers)
    for (number, member) in pool.snapshot.members.enumerated() {
        var load = ServerLoad()
        load.waitingCount = number % 7
        load.kvUsage = Double(number % 10) / 10
        // Ahead of time, so that no load gets stale while rounds run.
        member.scraped(.load(load), at: .now + .seconds(3600))
    }
    var plugins = PluginRegistry.standard
    PrecisePrefixCacheProducer.register(in: &plugins) { (configuration) throws(KVIndexError) in
        let index = try KVIndex(configuration: configuration)
        for server in servers { _ = try index.register(server.name) }
        return index
    }
    return Router(
        pool: pool,
        scheduler: try EndpointPickerConfig.scheduler(
            parsing: configuration, file: "perf", registry: plugins),
        metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "default"))
}

/// One request from its head to its end, without sockets.
private func decide(_ router: Router, path: String, _ headers: Headers, _ body: [UInt8]) throws {
    let session = RequestSession(router: router, method: "POST", path: path[...], headers: headers)
    _ = session.begin(endOfBody: false)
    _ = body.withUnsafeBytes { session.received($0) }
    guard case .route = session.receivedEnd() else { throw PerfError("no endpoint was picked") }
    session.responseStarted(status: 200)
    session.completed(.finished)
}

/// Parsing, matching, scoring and picking. Under `precise` the prompt is in the index: the first
/// decision announced it.
func measureDecisions() throws {
    let ids = (0..<8192).map { String($0 * 7919 % 128_256) }.joined(separator: ",")
    let tokens = Array(#"{"model":"llmd-sim","max_tokens":16,"prompt":[\#(ids)]}"#.utf8)
    let chat = Engines.chat(textBytes: 4 << 10)
    for (policy, name, path, body) in [
        (RoutingPolicy.load, "load, chat of 4 KiB", "/v1/chat/completions", chat),
        (.precise, "precise, 8,192 token ids", "/v1/completions", tokens),
    ] {
        let headers = Headers(body)
        let counts = [8, 100, 1000]
        let figures = try measureCPUTime(
            counts.map { count in
                let router = try makeRouter(policy.configuration, endpointCount: count)
                return Contender(operations: 500) {
                    for _ in 0..<500 { try decide(router, path: path, headers, body) }
                }
            })
        for (count, figure) in zip(counts, figures) {
            try Row(
                suite: "router", name: "decision, \(name), \(count) endpoints",
                metric: "CPU time", unit: "us/request", ours: figure.scaled(by: 1e-3)
            ).print()
        }
    }
}

/// A request whose body comes in pieces; returns the nanoseconds from the last piece to the
/// decision.
private func decideInPieces(
    _ router: Router, path: String, _ headers: Headers, _ body: [UInt8], pieceBytes: Int
) throws -> Double {
    let session = RequestSession(router: router, method: "POST", path: path[...], headers: headers)
    _ = session.begin(endOfBody: false)
    let lastStart = (body.count - 1) / pieceBytes * pieceBytes
    return try body.withUnsafeBytes { body in
        for start in stride(from: 0, to: lastStart, by: pieceBytes) {
            let piece = body[start..<start + pieceBytes]
            _ = session.received(UnsafeRawBufferPointer(rebasing: piece))
        }
        let began = MonotonicTime.now
        _ = session.received(UnsafeRawBufferPointer(rebasing: body[lastStart...]))
        let step = session.receivedEnd()
        let elapsed = MonotonicTime.now - began
        guard case .route = step else { throw PerfError("no endpoint was picked") }
        session.responseStarted(status: 200)
        session.completed(.finished)
        return Double(elapsed.components.attoseconds) / 1e9
    }
}

/// How long a data plane that has passed on the last piece of a long body waits for the decision.
/// What can be done before is done while the others come.
func measureDecisionsAfterLastByte() throws {
    let pieceBytes = 62_000
    for (name, configuration, path, body) in [
        (
            "100k token ids, precise", preciseConfiguration, "/v1/completions",
            Engines.completion(tokenCount: 100_000)
        ),
        (
            "450 KiB of text, approximate", standardConfiguration, "/v1/chat/completions",
            Engines.chat(textBytes: 450 << 10)
        ),
    ] {
        let router = try makeRouter(configuration, endpointCount: 100)
        let headers = Headers(body)
        let rounds = try (0...9).map { _ in
            let times = try (0..<101).map { _ in
                try decideInPieces(router, path: path, headers, body, pieceBytes: pieceBytes)
            }
            return times.sorted()[50] * 1e-3
        }
        try Row(
            suite: "router", name: "pieces of \(pieceBytes) bytes, \(name)",
            metric: "decision after the last byte", unit: "us",
            ours: Measurement(rounds: Array(rounds.dropFirst()))
        ).print()
    }
}
