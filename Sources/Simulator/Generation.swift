import Core
import Net
import Scan
import Telemetry

/// One call of a generation API on its way from the engine to the client.
///
/// A client that is slower than the engine gets fewer, longer chunks: nothing is queued for it
/// beyond what the connection takes.
final class Generation: EngineRequestDelegate {
    private let engine: Engine
    private let exchange: ServerExchange
    private let call: GenerationRequest
    private let format: ReplyFormat
    private let requests: [EngineRequest]
    /// Whether the connection is to end with the first piece of the reply.
    private let breaksOff: Bool
    private let promptTokenCount: Int

    /// What of each choice the client has got.
    private var sent: [(tokens: Int, bytes: Int)]
    private var unfinishedCount: Int
    private var hasResponded = false
    private var isBlocked = false
    private var isOver = false
    private var chunks: [UInt8] = []

    /// Begins to serve a call.
    ///
    /// - Throws: what is wrong with it, or that the queue is full.
    static func start(
        _ call: GenerationRequest, adapter: LoRAAdapter?, breaksOff: Bool = false,
        on exchange: ServerExchange, engine: Engine
    ) throws(APIError) -> Generation {
        let generation = try Generation(call, adapter, breaksOff, exchange, engine)
        for request in generation.requests { request.delegate = generation }
        engine.submit(generation.requests)
        return generation
    }

    private init(
        _ call: GenerationRequest, _ adapter: LoRAAdapter?, _ breaksOff: Bool,
        _ exchange: ServerExchange, _ engine: Engine
    ) throws(APIError) {
        let configuration = engine.configuration
        let (count, overflow) = call.prompts.count.multipliedReportingOverflow(
            by: call.choiceCount)
        guard !overflow, engine.hasRoom(for: count) else {
            engine.metrics.rejected()
            throw APIError(
                status: 429, type: "TooManyRequests",
                message: "The engine's queue of \(configuration.maximumWaiting) requests is full.")
        }
        self.engine = engine
        self.exchange = exchange
        self.call = call
        self.breaksOff = breaksOff
        let header = exchange.head.headers[first: "x-request-id"]
        let unique = header.map { RequestID(header: $0).text } ?? randomHex(digits: 16)
        let id = (call.api == .chat ? "chatcmpl-" : "cmpl-") + unique
        format = ReplyFormat(
            api: call.api, id: id, created: Int(wallClockSeconds()),
            model: adapter?.module.name ?? configuration.modelNames[0],
            fingerprint: engine.fingerprint)

        var requests: [EngineRequest] = []
        var promptTokenCount = 0
        for prompt in call.prompts {
            let tokens = prompt.tokens
            let limits = try Self.limits(call, tokens, configuration)
            promptTokenCount += tokens.count
            engine.metrics.called(choices: call.choiceCount, maxTokens: limits.maxTokens)
            let seed =
                call.seed.map { UInt64(bitPattern: Int64($0)) }
                ?? (call.temperature > 0 ? engine.nextSeed() : 0)
            for choice in 0..<call.choiceCount {
                var generator = OutputGenerator.generator(
                    prompt: fingerprint(of: tokens, adapter), seed: seed, index: choice)
                let index = requests.count
                requests.append(
                    EngineRequest(
                        id: "\(id)-\(index)-\(randomHex(digits: 8))", index: index, prompt: tokens,
                        reply: Reply(limits, &generator),
                        // KV cache elsewhere, or for elsewhere, is that of one sequence.
                        remote: index == 0 ? call.remote : nil,
                        keepsBlocks: index == 0 && call.keepsBlocks, adapter: adapter,
                        salt: call.salt))
            }
        }
        self.requests = requests
        self.promptTokenCount = promptTokenCount
        sent = requests.map { _ in (0, 0) }
        unfinishedCount = requests.count
    }

    private static func limits(
        _ call: GenerationRequest, _ tokens: [UInt32], _ configuration: SimulatorConfiguration
    ) throws(APIError) -> Reply.Limits {
        guard !tokens.isEmpty else {
            throw .badRequest("The decoder prompt cannot be empty", param: "prompt")
        }
        if let largest = tokens.max(), largest >= configuration.vocabularySize {
            throw .badRequest("Token id \(largest) is out of vocabulary", param: "prompt")
        }
        var limits = Reply.Limits(
            maxTokens: try call.maxTokens(
                promptCount: tokens.count, modelLength: configuration.maximumModelLength))
        limits.minTokens = call.minTokens
        limits.ignoresEndOfSequence = call.ignoresEndOfSequence
        limits.stop = call.stop
        limits.stopTokens = Set(call.stopTokens)
        limits.includesStop = call.includesStop
        return limits
    }

    // MARK: - From the engine

    func requestProducedToken(_ request: EngineRequest) {
        if call.streams {
            send(request)
        } else if request.hasEnded, sent[request.index].tokens == 0 {
            sent[request.index].tokens = request.generatedCount
            unfinishedCount -= 1
            if unfinishedCount == 0 { respond() }
        }
    }

    func request(_ request: EngineRequest, failed error: APIError) {
        guard !isOver else { return }
        isOver = true
        for other in requests where other !== request { engine.abort(other) }
        if hasResponded {
            ReplyFormat.append(error, to: &chunks)
            ReplyFormat.appendDone(to: &chunks)
            exchange.write(chunks)
            exchange.finish()
        } else {
            exchange.respond(error)
        }
    }

    // MARK: - From the client

    /// The client takes more.
    func becameWritable() {
        isBlocked = false
        for request in requests where !isBlocked { send(request) }
    }

    /// The client is gone, or has got everything.
    func closed() {
        guard !isOver else { return }
        isOver = true
        for request in requests { engine.abort(request) }
    }

    // MARK: - Whole replies

    private func respond() {
        isOver = true
        let choices = requests.map { choice($0, $0.reply.text[..<$0.reply.shownCount], 0) }
        let kept = requests.first { $0.state == .pinned }
        var head = HTTPResponseHead(status: 200, headers: ["content-type": "application/json"])
        let body = format.body(
            choices, usage: usage, kept: kept, transfer: engine.transferIdentity,
            epoch: engine.poolEpoch)
        guard breaksOff else { return exchange.respond(head, body: body) }
        head.headers.set("content-length", String(body.count))
        exchange.respond(head)
        exchange.write(Array(body.prefix(body.count / 2)))
        exchange.abort()
    }

    private func choice(
        _ request: EngineRequest, _ text: ArraySlice<UInt8>, _ firstToken: Int
    ) -> ReplyFormat.Choice {
        var choice = ReplyFormat.Choice(
            index: request.index, text: text, ended: request.hasEnded ? request.reply : nil)
        if firstToken == 0, call.echoes {
            choice.echo = call.prompts[request.index / call.choiceCount].text
        }
        var tokens: [UInt32] {
            (firstToken..<request.generatedCount).map(request.reply.token(at:))
        }
        if call.returnsTokenIDs {
            choice.tokenIDs = tokens
            if firstToken == 0 { choice.promptTokenIDs = request.prompt }
        }
        if let topCount = call.topLogprobs {
            choice.logprobs = TokenLogprobs(tokens: tokens, start: firstToken, topCount: topCount)
        }
        return choice
    }

    private var usage: Usage {
        Usage(
            promptTokens: promptTokenCount,
            completionTokens: requests.reduce(0) { $0 + $1.generatedCount },
            cachedTokens: stride(from: 0, to: requests.count, by: call.choiceCount)
                .reduce(0) { $0 + requests[$1].reusedTokenCount })
    }

    // MARK: - Streams

    /// Sends what is new of a choice, if the client takes it.
    private func send(_ request: EngineRequest) {
        let before = sent[request.index]
        guard request.generatedCount > before.tokens, !isBlocked, !isOver else { return }
        if !hasResponded {
            hasResponded = true
            exchange.respond(
                HTTPResponseHead(
                    status: 200, headers: ["content-type": "text/event-stream; charset=utf-8"]))
        }
        chunks.removeAll(keepingCapacity: true)
        if before.tokens == 0, call.api == .chat {
            format.appendOpening(
                index: request.index, usage: usage(of: request, tokens: 0),
                promptTokenIDs: call.returnsTokenIDs ? request.prompt : nil, to: &chunks)
        }
        let shown = request.reply.shownCount(afterTokens: request.generatedCount)
        sent[request.index] = (request.generatedCount, shown)
        if request.hasEnded { unfinishedCount -= 1 }
        let isLast = unfinishedCount == 0
        format.append(
            choice(request, request.reply.text[before.bytes..<shown], before.tokens),
            usage: usage(of: request, tokens: request.generatedCount),
            isLast: isLast && !call.includesUsage, to: &chunks)
        if isLast {
            if call.includesUsage { format.appendUsage(usage, to: &chunks) }
            ReplyFormat.appendDone(to: &chunks)
        }
        if breaksOff {
            exchange.write(isLast ? Array(chunks.prefix(chunks.count / 2)) : chunks)
            return exchange.abort()
        }
        isBlocked = !exchange.write(chunks)
        if isLast {
            isOver = true
            exchange.finish()
        }
    }

    /// What chunks of a choice say of it with `continuous_usage_stats`.
    private func usage(of request: EngineRequest, tokens: Int) -> Usage? {
        guard call.includesUsageAlways else { return nil }
        return Usage(
            promptTokens: request.prompt.count, completionTokens: tokens,
            cachedTokens: request.reusedTokenCount)
    }
}

/// Stands for a prompt and the adapter that reads it: 64-bit FNV-1a over both.
private func fingerprint(of tokens: [UInt32], _ adapter: LoRAAdapter?) -> UInt64 {
    let name = (adapter?.module.name ?? "").utf8.lazy.map { UInt32($0) }
    return [AnySequence(name), AnySequence(tokens)].joined()
        .reduce(0xcbf2_9ce4_8422_2325) { ($0 ^ UInt64($1)) &* 0x0000_0100_0000_01b3 }
}

/// Random lower-case hexadecimal digits.
func randomHex(digits: Int) -> String {
    String((0..<digits).map { _ in "0123456789abcdef".randomElement() ?? "0" })
}

extension ServerExchange {
    /// Answers with an error in vLLM's form.
    func respond(_ error: APIError) {
        respond(
            HTTPResponseHead(status: error.status, headers: ["content-type": "application/json"]),
            text: error.body)
    }

    /// Answers 200 with JSON.
    func respond(json: JSONWriter) {
        respond(
            HTTPResponseHead(status: 200, headers: ["content-type": "application/json"]),
            body: json.bytes)
    }
}
