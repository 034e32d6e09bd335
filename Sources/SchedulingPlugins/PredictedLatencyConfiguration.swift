import Configuration
import Core

/// What can be set about ``PredictedLatencyProducer``.
///
/// Upstream's parameters: `streamingMode` (false), `sloBufferFactor` (1), `contextTTL` (5m),
/// `predictInProduce` (true), `endpointRoleLabel` (none), `samplingMean` and
/// `maxDecodeTokenSamplesForPrediction` (read, without a meaning). Ours: `predictionURLs`,
/// `trainingURL`, `timeout` (400ms), `flushInterval` (1s), `maxSampleSize` (1000).
struct PredictedLatencyConfiguration {
    /// Whether the first token and those that follow are told apart.
    let isStreaming: Bool
    /// What the objective for further tokens is multiplied with.
    let sloBuffer: Double
    /// A request that takes longer tells the predictor nothing.
    let ttl: Duration
    /// Whether the predictor is asked; otherwise it is only trained.
    let predictsInProduce: Bool
    private let roleLabel: String?
    /// The prediction servers, at least one.
    let predictors: [SocketAddress]
    let predictorPath: String
    /// The training server.
    let training: ServiceURL
    /// How long a prediction may take.
    let timeout: Duration
    /// The time between two posts of samples.
    let flushInterval: Duration
    /// The most samples in one post.
    let maxSampleSize: Int

    init(
        _ section: inout ConfigSection, environment: [String: String]
    ) throws(ConfigError) {
        isStreaming = try section.optional("streamingMode")?.boolean() ?? false
        sloBuffer = try section.optional("sloBufferFactor")?.number(in: 0.001...1000) ?? 1
        ttl = try section.optional("contextTTL")?.goDuration() ?? .seconds(300)
        predictsInProduce = try section.optional("predictInProduce")?.boolean() ?? true
        roleLabel = try section.optional("endpointRoleLabel")?.string()
        _ = try section.optional("samplingMean")?.number(in: 1e-9...1e12)
        _ = try section.optional("maxDecodeTokenSamplesForPrediction")?.integer(in: 0 ... .max)

        let urls: [ServiceURL]
        if let value = section.optional("predictionURLs") {
            var read: [ServiceURL] = []
            for element in try value.list() { read.append(try element.serviceURL()) }
            guard !read.isEmpty else { throw value.error("must name a server") }
            guard read.allSatisfy({ $0.path == read[0].path }) else {
                throw value.error("must have the same path in all URLs")
            }
            urls = read
        } else {
            let text = environment["PREDICTION_SERVER_URL"] ?? "http://localhost:8001"
            var read: [ServiceURL] = []
            for part in text.split(separator: ",") {
                read.append(
                    try Self.url(
                        String(part.filter { $0 != " " }), of: "PREDICTION_SERVER_URL", section))
            }
            guard !read.isEmpty, read.allSatisfy({ $0.path == read[0].path }) else {
                throw section.error("finds no usable PREDICTION_SERVER_URL: '\(text)'")
            }
            urls = read
        }
        predictors = urls.map(\.address)
        predictorPath = urls[0].path
        if let value = section.optional("trainingURL") {
            training = try value.serviceURL()
        } else {
            training = try Self.url(
                environment["TRAINING_SERVER_URL"] ?? "http://localhost:8000",
                of: "TRAINING_SERVER_URL", section)
        }
        timeout =
            try section.optional("timeout")?.duration(above: .zero, upTo: .seconds(60))
            ?? .milliseconds(400)
        flushInterval =
            try section.optional("flushInterval")?
            .duration(above: .milliseconds(9), upTo: .seconds(3600)) ?? .seconds(1)
        maxSampleSize =
            try section.optional("maxSampleSize")?.integer(in: 1...100_000) ?? 1000
    }

    /// The role of an endpoint; empty if roles are not told.
    func role(of endpoint: Endpoint) -> String {
        roleLabel.flatMap { endpoint.server.labels[$0] } ?? ""
    }

    private static func url(
        _ text: String, of variable: String, _ section: ConfigSection
    ) throws(ConfigError) -> ServiceURL {
        do {
            return try ServiceURL(parsing: text)
        } catch {
            throw section.error("finds in \(variable) '\(text)', which \(error.problem)")
        }
    }
}

extension ConfigValue {
    /// The URL of a service.
    func serviceURL() throws(ConfigError) -> ServiceURL {
        let text = try string()
        do {
            return try ServiceURL(parsing: text)
        } catch {
            throw self.error("is '\(text)', which \(error.problem)")
        }
    }

    /// A duration within bounds.
    func duration(
        above low: Duration, upTo high: Duration
    ) throws(ConfigError) -> Duration {
        let value = try duration()
        guard value > low, value <= high else {
            throw error("must be a duration above \(low) and at most \(high)")
        }
        return value
    }

    /// A duration as text, or as the nanoseconds that upstream's JSON has.
    fileprivate func goDuration() throws(ConfigError) -> Duration {
        if let nanoseconds = try? integer(in: 1 ... .max) { return .nanoseconds(nanoseconds) }
        return try duration()
    }
}
