import Core
import FlowControl
import KVIndex
import ModelServers
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry
import Testing

struct Headers: HeaderLookup {
    var values: [String: String] = [:]
    func value(ofHeader name: String) -> String? { values[name] }
}

func server(_ name: String, _ number: Int, role: ServerRole) -> ModelServer {
    ModelServer(
        name: name, address: SocketAddress(host: "10.0.0.\(number)", port: 8000),
        labels: [ServerRole.label: role.rawValue])
}

/// Two prefill and two decode endpoints.
let disaggregated = [
    server("p0", 1, role: .prefill), server("p1", 2, role: .prefill),
    server("d0", 3, role: .decode), server("d1", 4, role: .decode),
]

struct Fixture {
    let pool = EndpointPool()
    let registry = MetricsRegistry()
    let router: Router

    /// With a `probe` every endpoint is as good as another, and the probe sees the requests.
    init(
        _ servers: [ModelServer] = disaggregated, policy: RoutingPolicy = .precise,
        configuration text: String? = nil, probe: RequestProbe? = nil,
        flow: (configuration: FlowControlConfiguration, isEnabled: Bool)? = nil,
        _ adjust: (inout RouterConfiguration) -> Void = { _ in }
    ) throws {
        pool.update(servers)
        var plugins = PluginRegistry.standard
        PrecisePrefixCacheProducer.register(in: &plugins) { (configuration) throws(KVIndexError) in
            let index = try KVIndex(configuration: configuration)
            for server in servers { _ = try index.register(server.name) }
            return index
        }
        var text = text
        if let probe {
            plugins.register("request-probe") { _ in probe }
            text = """
                apiVersion: llm-d.ai/v1alpha1
                kind: EndpointPickerConfig
                plugins: [{type: random-picker}, {type: request-probe}]
                """
        }
        var configuration = RouterConfiguration()
        configuration.seed = 1
        adjust(&configuration)
        router = Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: text ?? policy.configuration, file: policy.rawValue, registry: plugins),
            metrics: RouterMetrics(registry: registry, pool: pool, poolName: "test"),
            flow: flow.map { [pool, registry] in
                FlowController(
                    $0.configuration, isEnabled: $0.isEnabled, pool: pool, registry: registry)
            }, configuration: configuration)
    }

    func session(
        _ method: String = "POST", _ path: String = "/v1/completions",
        headers: [String: String] = [:]
    ) -> RequestSession {
        RequestSession(
            router: router, method: method, path: path[...], headers: Headers(values: headers))
    }

    /// The step that a whole body leads to.
    func step(_ body: String, path: String = "/v1/completions") -> (RequestSession, Step) {
        let session = session("POST", path)
        _ = session.begin(endOfBody: false)
        if let early = session.feed(body) { return (session, early) }
        return (session, session.receivedEnd())
    }

    var prefillTokensInFlight: Int {
        pool.snapshot.members.map(\.prefillTokensInFlight).reduce(0, +)
    }
    var inFlight: [Int] { pool.snapshot.members.map(\.inFlightCount) }

    /// The sum of all samples of a metric whose labels contain `text`.
    func metric(_ name: String, _ text: String = "") -> Double {
        String(decoding: registry.exposition(), as: UTF8.self).split(separator: "\n")
            .filter { $0.hasPrefix(name + "{") || $0.hasPrefix(name + " ") }
            .filter { text.isEmpty || $0.contains(text) }
            .compactMap { Double($0.split(separator: " ").last ?? "") }
            .reduce(0, +)
    }
}

extension PromptText {
    /// The parts, one behind the other.
    var string: String {
        var bytes: [UInt8] = []
        forEachPart { part in bytes += part.indices.map { part[$0] } }
        return String(decoding: bytes, as: UTF8.self)
    }
}

extension RequestSession {
    /// Feeds a piece; the step, if it is another than `more`.
    func feed(_ text: some StringProtocol) -> Step? {
        let step = Array(text.utf8).withUnsafeBytes { received($0) }
        if case .more = step { return nil }
        return step
    }

    func respond(_ text: String) {
        Array(text.utf8).withUnsafeBytes { responseBody($0) }
    }
}

extension Step {
    var decision: Decision? {
        if case .route(let decision) = self { decision } else { nil }
    }
    var error: APIError? {
        if case .reject(let error) = self { error } else { nil }
    }
    var question: TokenizeRequest? {
        if case .tokenize(let question) = self { question } else { nil }
    }
}

func prompt(_ count: Int) -> String {
    "[" + (0..<count).map(String.init).joined(separator: ",") + "]"
}
