import Core
import ExtProc
import FlowControl
import ModelServers
import Net
import RequestPipeline
import Scheduling
import SchedulingPlugins
import Telemetry
import Testing

/// A router over engines at 10.0.0.1:8000 and up, of which each request gets the first that is
/// eligible.
struct Fixture {
    let pool = EndpointPool()
    let router: Router

    init(
        engines: Int = 3, plugins: String = "{type: first-picker}",
        flow: FlowControlConfiguration? = nil,
        _ adjust: (inout RouterConfiguration) -> Void = { _ in }
    ) throws {
        pool.update(
            (1...4).prefix(engines).map {
                ModelServer(
                    name: "engine-\($0)", address: SocketAddress(host: "10.0.0.\($0)", port: 8000))
            })
        var registry = PluginRegistry.standard
        registry.register("first-picker") { FirstPicker(name: $0.name) }
        registry.register("two-picker") { FirstPicker(name: $0.name, count: 2) }
        registry.register("token-reader") { TokenReader(name: $0.name) }
        registry.register("prefiller") { Prefiller(name: $0.name) }
        let configuration = """
            apiVersion: llm-d.ai/v1alpha1
            kind: EndpointPickerConfig
            plugins: [\(plugins)]
            """
        var router = RouterConfiguration()
        router.seed = 1
        adjust(&router)
        let controller = flow.map { [pool] in
            FlowController($0, isEnabled: true, pool: pool)
        }
        self.router = Router(
            pool: pool,
            scheduler: try EndpointPickerConfig.scheduler(
                parsing: configuration, file: "test", registry: registry),
            metrics: RouterMetrics(registry: MetricsRegistry(), pool: pool, poolName: "test"),
            flow: controller, configuration: router)
    }

    var inFlight: [Int] { pool.snapshot.members.map(\.inFlightCount) }
    var inFlightCount: Int { inFlight.reduce(0, +) }
}

/// Picks the candidates in the order of the pool.
private final class FirstPicker: Picker {
    let name: PluginName
    let count: Int

    init(name: PluginName, count: Int = 1) {
        self.name = name
        self.count = count
    }

    func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        candidates.sort { $0.index < $1.index }
        candidates.removeLast(max(0, candidates.count - count))
    }
}

/// Wants the tokens of every prompt.
private final class TokenReader: DataProducer {
    let name: PluginName
    let promptNeeds = PromptNeeds.tokens

    init(name: PluginName) {
        self.name = name
    }

    func produce(into context: inout SchedulingContext) {}
}

/// Names a prefiller as a profile handler of upstream does.
private final class Prefiller: PreRequest {
    let name: PluginName

    init(name: PluginName) {
        self.name = name
    }

    func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        headers.append(.set(name: "x-prefiller-host-port", value: "10.0.0.9:8000"))
    }
}

/// A session and what it wrote.
final class Conversation {
    let session: ExtProcSession
    private var writer = ProcessingResponseWriter()
    private(set) var action = ExtProcSession.Action.proceed
    /// The frames that the last event led to.
    private(set) var frames: [UInt8] = []

    init(_ fixture: Fixture, ignoresSubset: Bool = false) {
        session = ExtProcSession(router: fixture.router, ignoresSubset: ignoresSubset)
    }

    /// Sends a message; what comes back, the request body included.
    @discardableResult
    func send(_ message: [UInt8]) throws -> [Response] {
        action = message.withUnsafeBytes { session.received($0, to: &writer) }
        return try drain()
    }

    /// Answers the question for tokens.
    func tokenized(_ result: Result<[UInt32], APIError>) throws -> [Response] {
        action = session.tokenized(result, to: &writer)
        return try drain()
    }

    /// Flow control has decided.
    func signalled() throws -> [Response] {
        action = session.signalled(to: &writer)
        return try drain()
    }

    /// Sends the head and the body of a request for a completion.
    @discardableResult
    func post(_ body: String = #"{"model":"m","prompt":[1,2]}"#) throws -> [Response] {
        try send(Request.requestHeaders(completion))
        return try send(Request.requestBody(body.utf8, end: true))
    }

    var status: Int? {
        if case .end(let status) = action { status.code } else { nil }
    }

    var question: TokenizeRequest? {
        if case .tokenize(let question) = action { question } else { nil }
    }

    private func drain() throws -> [Response] {
        while session.hasOutgoingBody { session.writeBody(to: &writer) }
        defer { writer.removeAll() }
        frames = writer.frames
        return try Response.all(in: writer.frames)
    }
}

let completion = [
    (":method", "POST"), (":path", "/v1/completions?x=1"), (":authority", "example.org"),
    ("content-type", "application/json"), ("x-request-id", "id-1"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
]

extension Response {
    var set: [String: String] {
        guard case .headers(_, let set, _, _) = self else { return [:] }
        return Dictionary(set.map { ($0[0], $0[1]) }) { _, last in last }
    }
    var removed: [String] {
        if case .headers(_, _, let removed, _) = self { removed } else { [] }
    }
}
