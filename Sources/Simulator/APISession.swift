import Core
import Net
import Scan
import Telemetry

/// The routes of the engine's HTTP API.
enum Route: String, CaseIterable {
    case models = "/v1/models"
    case completions = "/v1/completions"
    case chat = "/v1/chat/completions"
    case renderCompletions = "/v1/completions/render"
    case renderChat = "/v1/chat/completions/render"
    case tokenize = "/tokenize"
    case detokenize = "/detokenize"
    case health = "/health"
    case ping = "/ping"
    case version = "/version"
    case load = "/load"
    case metrics = "/metrics"
    case eventSources = "/kv_event_sources"
    case resetPrefixCache = "/reset_prefix_cache"
    case loadAdapter = "/v1/load_lora_adapter"
    case unloadAdapter = "/v1/unload_lora_adapter"

    /// The methods it takes.
    var methods: [String] {
        switch self {
        case .models, .health, .version, .load, .metrics, .eventSources: ["GET"]
        case .ping: ["GET", "POST"]
        case .completions, .chat, .renderCompletions, .renderChat, .tokenize, .detokenize,
            .resetPrefixCache, .loadAdapter, .unloadAdapter:
            ["POST"]
        }
    }

    /// Whether it reads a JSON body.
    var readsBody: Bool { methods == ["POST"] && self != .resetPrefixCache }

    /// Whether an engine has it.
    func isServed(by configuration: SimulatorConfiguration) -> Bool {
        switch self {
        case .loadAdapter, .unloadAdapter: configuration.maximumAdapters > 0
        default: true
        }
    }
}

/// One HTTP request: takes in the body as it comes, then answers or starts a generation.
final class APISession: ServerExchangeDelegate {
    private let engine: Engine
    private let route: Route
    private var body: JSONScanner?
    private var bodyCount = 0
    private var bodyError: ScanError?
    private var generation: Generation?

    init(_ route: Route, _ engine: Engine) {
        self.route = route
        self.engine = engine
        body = route.readsBody ? JSONScanner() : nil
    }

    func exchange(_ exchange: ServerExchange, received bytes: UnsafeRawBufferPointer) {
        let limit = engine.configuration.maximumBodyBytes
        let isNews = bodyCount <= limit
        bodyCount += bytes.count
        guard bodyCount <= limit else {
            body = nil
            if isNews { exchange.respond(.tooLarge(limitBytes: limit)) }
            return
        }
        guard bodyError == nil else { return }
        do {
            try body?.feed(bytes)
        } catch {
            bodyError = error
        }
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        guard bodyCount <= engine.configuration.maximumBodyBytes else { return }
        do {
            try answer(exchange)
        } catch {
            exchange.respond(error)
        }
        body = nil
    }

    func exchangeWritable(_ exchange: ServerExchange) { generation?.becameWritable() }

    func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
        generation?.closed()
        generation = nil
    }

    private func answer(_ exchange: ServerExchange) throws(APIError) {
        let api = ModelAPI(engine.configuration, engine.adapters)
        switch route {
        case .models: exchange.respond(json: api.models())
        case .completions, .chat:
            let call = try call()
            let failure = engine.failures.next()
            if let failure, try fail(call, by: failure, exchange) { return }
            generation = try Generation.start(
                call, adapter: try api.adapter(named: call.model),
                breaksOff: failure == .closeMidStream, on: exchange, engine: engine)
        case .renderCompletions, .renderChat: exchange.respond(json: try api.render(try call()))
        case .tokenize: exchange.respond(json: try api.tokenize(try document()))
        case .detokenize: exchange.respond(json: try api.detokenize(try document()))
        case .health, .ping: exchange.respond(HTTPResponseHead(status: 200), text: "")
        case .version: exchange.respond(json: api.version())
        case .load: exchange.respond(json: api.load(engine.requestCount))
        case .metrics:
            exchange.respond(
                HTTPResponseHead(
                    status: 200, headers: ["content-type": MetricsRegistry.contentType]),
                body: engine.metricsPage())
        case .eventSources: exchange.respond(json: api.eventSources(engine.eventEndpoints))
        case .resetPrefixCache:
            guard engine.resetPrefixCache() else {
                throw APIError(
                    status: 503, type: "ServiceUnavailable",
                    message: "The prefix cache cannot be reset while KV blocks are in use.")
            }
            exchange.respond(HTTPResponseHead(status: 200), text: "")
        case .loadAdapter:
            let (module, inPlace) = try ModelAPI.loading(try document())
            try engine.loadAdapter(module, inPlace: inPlace)
            respond(exchange, "Success: LoRA adapter '\(module.name)' added successfully.")
        case .unloadAdapter:
            let name = try ModelAPI.unloading(try document())
            try engine.unloadAdapter(name)
            respond(exchange, "Success: LoRA adapter '\(name)' removed successfully.")
        }
    }

    /// Fails a call on purpose; false if it is to begin all the same.
    private func fail(
        _ call: GenerationRequest, by failure: InjectedFailure, _ exchange: ServerExchange
    ) throws(APIError) -> Bool {
        engine.metrics.injected(failure)
        let configuration = engine.configuration
        if let error = failure.error(
            model: call.model ?? configuration.modelNames[0],
            modelLength: configuration.maximumModelLength)
        {
            throw error
        }
        if failure == .garbage {
            let type = call.streams ? "text/event-stream; charset=utf-8" : "application/json"
            exchange.respond(
                HTTPResponseHead(status: 200, headers: ["content-type": type]),
                body: engine.failures.garbage())
        }
        return failure != .closeMidStream
    }

    private func respond(_ exchange: ServerExchange, _ text: String) {
        exchange.respond(
            HTTPResponseHead(status: 200, headers: ["content-type": "text/plain"]), text: text)
    }

    private func call() throws(APIError) -> GenerationRequest {
        let isChat = route == .chat || route == .renderChat
        return try GenerationRequest(try document(), api: isChat ? .chat : .completions)
    }

    private func document() throws(APIError) -> JSONDocument {
        do throws(ScanError) {
            if let bodyError { throw bodyError }
            return try (body ?? JSONScanner()).finish()
        } catch {
            throw RequestBodyReader.invalidJSON(error)
        }
    }
}
