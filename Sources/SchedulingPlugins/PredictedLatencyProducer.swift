public import Configuration
public import Core
public import Scheduling
import Synchronization
import Telemetry

/// `predicted-latency-producer`: how fast each endpoint is expected to answer, by llm-d's latency
/// predictor, which it also tells how fast they did answer.
///
/// The predictor is asked about a request at all its endpoints before the decision. Without an
/// answer in time the request is decided as if nobody predicted.
public final class PredictedLatencyProducer:
    DataProducer, Inquirer, PreRequest, ResponseObserver, ConfigurablePlugin
{
    /// The type's name.
    public static let type = "predicted-latency-producer"
    /// Its type and name.
    public let name: PluginName

    /// What is remembered of a request until it has ended.
    private struct Dispatch {
        var at: MonotonicTime
        /// Of who computes the prompt, and of who generates.
        var prefill: LatencyFeatures
        var decode: LatencyFeatures
        var predictedTTFT: Double?
        var predictedTPOT: Double?
    }

    /// Rows that the predictor takes at once.
    private static let maximumRows = 10_000
    private static let maximumDispatches = 65_536

    private let configuration: PredictedLatencyConfiguration
    private let prefixProducer: String
    private let circuit = ServiceCircuit(limit: 256)
    private let dispatches = Mutex<[String: Dispatch]>([:])
    private let samples: Mutex<SampleBuffer<LatencySample>>
    /// Whether there is a predictor: somebody declared it, or it has answered. Where neither is so,
    /// what listens at the standard ports may be anything.
    private let isThere: Atomic<Bool>

    /// Parameters: those of ``PredictedLatencyConfiguration``, and `prefixMatchInfoProducerName`.
    /// The predictor is on this host unless `predictionURLs` and `trainingURL` say otherwise.
    public convenience init(_ source: inout PluginSource) throws(ConfigError) {
        try self.init(&source, environment: [:])
    }

    /// The same, with the variables of upstream's client: `PREDICTION_SERVER_URL`, a list with
    /// commas, and `TRAINING_SERVER_URL`.
    public init(
        _ source: inout PluginSource, environment: [String: String]
    ) throws(ConfigError) {
        name = source.name
        configuration = try PredictedLatencyConfiguration(
            &source.parameters, environment: environment)
        prefixProducer = try source.prefixProducer()
        samples = Mutex(SampleBuffer(limit: configuration.maxSampleSize))
        isThere = Atomic(source.isDeclared)
    }

    /// Lets configurations declare it, with the process's environment.
    public static func register(
        in registry: inout PluginRegistry, environment: [String: String]
    ) {
        registry.register(type) { (source) throws(ConfigError) in
            try PredictedLatencyProducer(&source, environment: environment)
        }
    }

    // MARK: - Predictions

    /// Asks for all candidates, unless the predictor has just failed.
    public func question(
        about candidates: [Int], in context: SchedulingContext
    ) -> ServiceQuestion? {
        guard configuration.predictsInProduce, candidates.count <= Self.maximumRows,
            context.request.promptTokenCount > 0, circuit.begin(at: .now)
        else { return nil }
        let rows = candidates.map { features(of: $0, in: context) }
        let servers = configuration.predictors
        // Another server first each time.
        let first = Int(UInt(truncatingIfNeeded: context.seed) % UInt(servers.count))
        return ServiceQuestion(
            servers: Array(servers[first...] + servers[..<first]),
            path: configuration.predictorPath + "/predict/bulk/strict",
            body: LatencyPredictorMessages.question(rows), timeout: configuration.timeout,
            maximumAnswerBytes: 65_536 + 2048 * rows.count)
    }

    /// The predictions by endpoint.
    public func finding(
        _ outcome: ServiceOutcome, about endpoints: [UInt32]
    ) -> (any Sendable)? {
        var predictions: [LatencyPrediction]?
        if case .answered = outcome { isThere.store(true, ordering: .relaxed) }
        switch outcome {
        case .answered(200, let body):
            predictions = LatencyPredictorMessages.predictions(body, count: endpoints.count)
            circuit.ended(isFailure: predictions == nil, at: .now)
        // What it finds wrong with one question says nothing about the next.
        case .answered(let status, _):
            circuit.ended(isFailure: (400..<500).contains(status) ? nil : true, at: .now)
        case .failed: circuit.ended(isFailure: true, at: .now)
        case .abandoned: circuit.ended(isFailure: nil, at: .now)
        }
        guard let predictions else { return nil }
        return Dictionary(
            zip(endpoints, predictions), uniquingKeysWith: { first, _ in first })
    }

    /// Writes the predictions, if there are any.
    public func produce(into context: inout SchedulingContext) {
        guard let found = predictions(in: context) else { return }
        let objective = context.request.tpotObjective
        if let objective { context.request.tpotObjective = objective * configuration.sloBuffer }
        context.predictions = context.endpoints.map { endpoint in
            guard var prediction = found[endpoint.id] else { return nil }
            if !configuration.isStreaming || configuration.role(of: endpoint) == "prefill" {
                // The predictor learns nothing of it: it must not tell endpoints apart.
                prediction.tpotMilliseconds =
                    context.request.tpotObjective.map { $0.seconds * 1000 } ?? 0
            }
            return prediction
        }
    }

    private func predictions(in context: SchedulingContext) -> [UInt32: LatencyPrediction]? {
        context.request.findings[name.name] as? [UInt32: LatencyPrediction]
    }

    private func features(of index: Int, in context: SchedulingContext) -> LatencyFeatures {
        let load = context.loads[index]
        var features = LatencyFeatures()
        features.kvUsage = min(1, max(0, load.kvUsage))
        features.promptTokens = context.request.promptTokenCount
        features.waitingCount = load.waitingCount
        features.runningCount = context.inFlight[index]
        if let match = context.prefixMatch(by: prefixProducer) {
            features.prefixScore =
                min(1, Double(match.matchedBlocks[index]) / Double(match.totalBlocks))
        }
        if let media = context.mediaMatches.first(where: { $0.totalSize > 0 }) {
            features.encoderInputSize = media.totalSize
            features.encoderMatchedSize = min(media.matchedSizes[index], media.totalSize)
        }
        features.role = configuration.role(of: context.endpoints[index])
        features.prefillTokensInFlight = context.prefillTokensInFlight[index]
        return features
    }

    // MARK: - Samples

    /// Remembers what the endpoints were like when the request was sent.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard context.request.promptTokenCount > 0, isThere.load(ordering: .relaxed) else {
            return
        }
        let decode = result.primary[0].index
        let prefill = result.prefill.first?.index ?? decode
        let found = predictions(in: context)
        let dispatch = Dispatch(
            at: context.now, prefill: features(of: prefill, in: context),
            decode: features(of: decode, in: context),
            predictedTTFT: found?[context.endpoints[prefill].id]?.ttftMilliseconds,
            predictedTPOT: found?[context.endpoints[decode].id]?.tpotMilliseconds)
        dispatches.withLock { dispatches in
            guard dispatches.count < Self.maximumDispatches else { return }
            dispatches[context.request.id] = dispatch
        }
    }

    /// Forgets the request if another endpoint answered, of which nothing is remembered.
    public func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {
        guard head.server.id != request.endpoint.id else { return }
        dispatches.withLock { dispatches in dispatches[request.id] = nil }
    }

    /// Keeps what the request took, if it was answered to the end.
    public func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {
        let dispatch = dispatches.withLock { $0.removeValue(forKey: request.id) }
        guard let dispatch, let end = request.completedAt, end - dispatch.at <= configuration.ttl,
            let status = request.status, (200..<300).contains(status)
        else { return }
        let now = timestamp()
        func add(_ sample: LatencySample) {
            samples.withLock { $0.add(sample) }
        }
        // As upstream has it: what does not stream has its whole time as time to the first token.
        let first =
            configuration.isStreaming ? (request.isStreaming ? request.firstByteAt : nil) : end
        guard let first, first > dispatch.at else { return }
        add(
            LatencySample(
                features: dispatch.prefill,
                ttftMilliseconds: (first - dispatch.at).seconds * 1000,
                predictedTTFT: dispatch.predictedTTFT, timestamp: now))
        guard configuration.isStreaming, let tokens = usage?.completionTokens, tokens > 1,
            end > first
        else { return }
        var features = dispatch.decode
        features.prefixScore = 0
        features.encoderInputSize = 0
        features.encoderMatchedSize = 0
        add(
            LatencySample(
                features: features,
                tpotMilliseconds: (end - first).seconds * 1000 / Double(tokens - 1),
                predictedTPOT: dispatch.predictedTPOT, timestamp: now))
    }

    /// How often ``takeTraining()`` is to be called.
    public var trainingInterval: Duration { configuration.flushInterval }

    /// Samples that found no room among those to be told, since the start.
    public var droppedSampleCount: Int { samples.withLock { $0.droppedCount } }

    /// What to tell the predictor's training server now, and how many samples that are; nil if
    /// there are none. They are not told again.
    public func takeTraining() -> (question: ServiceQuestion, count: Int)? {
        let batch = samples.withLock { $0.take() }
        guard !batch.isEmpty else { return nil }
        return (
            ServiceQuestion(
                servers: [configuration.training.address],
                path: configuration.training.path + "/add_training_data_bulk",
                body: LatencyPredictorMessages.training(batch), timeout: .seconds(10),
                maximumAnswerBytes: 65_536), batch.count
        )
    }
}
