import Core
import KVIndex
import ModelServers
import PerfSupport
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry

private struct Headers: HeaderLookup {
    var fields: [String: String]

    func value(ofHeader name: String) -> String? { fields[name] }
}

private func makeRouter(_ policy: RoutingPolicy, endpointCount: Int) throws -> Router {
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
            parsing: policy.configuration, file: policy.rawValue, registry: plugins),
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
        let headers = Headers(fields: [
            "content-length": String(body.count),
            "x-request-id": "0f0a4c5e-3c64-4b0f-9a30-4d0a9b2a6f11",
        ])
        let counts = [8, 100, 1000]
        let figures = try measureCPUTime(
            counts.map { count in
                let router = try makeRouter(policy, endpointCount: count)
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
