public import Configuration
public import Core
import Scan
public import Scheduling

/// `remote-scorer`: the scores that a service outside of this process gives. Not upstream's.
///
/// The service is asked before the decision, by POST with a JSON object:
///
///     {"model": "m", "target_model": "m", "prompt_tokens": 12, "priority": 0, "endpoints": [
///       {"name": "a", "address": "10.0.0.1:8000", "labels": {}, "waiting": 0, "running": 1,
///        "kv_usage": 0.5, "in_flight": 1, "prefill_tokens_in_flight": 0, "cached_tokens": 0}]}
///
/// and answers `{"scores": [0.5]}`, a number for each endpoint in their order.
public final class RemoteScorer: Scorer, Inquirer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "remote-scorer"
    /// Its type and name.
    public let name: PluginName
    /// A service may answer anything.
    public let unrecordedInput: String? = "a service's answers"

    private let service: ServiceURL
    private let timeout: Duration
    private let fallbackScore: Double
    private let circuit = ServiceCircuit(limit: 256)

    /// Parameters: `url`, also `unix:/path`, `timeout` (50ms), `fallbackScore` (0.5), which all
    /// endpoints have without an answer in time.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        service = try source.parameters.required("url").serviceURL()
        timeout =
            try source.parameters.optional("timeout")?.duration(above: .zero, upTo: .seconds(60))
            ?? .milliseconds(50)
        fallbackScore =
            try source.parameters.optional("fallbackScore")?.number(in: 0...1) ?? 0.5
    }

    /// Asks about all candidates, unless the service has just failed.
    public func question(
        about candidates: [Int], in context: SchedulingContext
    ) -> ServiceQuestion? {
        guard circuit.begin(at: .now) else { return nil }
        return ServiceQuestion(
            servers: [service.address], path: service.path.isEmpty ? "/" : service.path,
            body: Self.body(candidates, context), timeout: timeout,
            maximumAnswerBytes: 4096 + 64 * candidates.count)
    }

    /// The scores by endpoint.
    public func finding(
        _ outcome: ServiceOutcome, about endpoints: [UInt32]
    ) -> (any Sendable)? {
        var scores: [Double]?
        switch outcome {
        case .answered(200, let body):
            scores = Self.scores(body, count: endpoints.count)
            circuit.ended(isFailure: scores == nil, at: .now)
        case .answered(let status, _):
            circuit.ended(isFailure: (400..<500).contains(status) ? nil : true, at: .now)
        case .failed: circuit.ended(isFailure: true, at: .now)
        case .abandoned: circuit.ended(isFailure: nil, at: .now)
        }
        return scores.map {
            Dictionary(zip(endpoints, $0), uniquingKeysWith: { first, _ in first })
        }
    }

    /// Gives what the service gave, and `fallbackScore` where it gave nothing.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        let found = context.request.findings[name.name] as? [UInt32: Double]
        for (i, candidate) in candidates.enumerated() {
            scores[i] = found?[context.endpoints[candidate].id] ?? fallbackScore
        }
    }

    private static func body(_ candidates: [Int], _ context: SchedulingContext) -> [UInt8] {
        let request = context.request
        var json = JSONWriter(capacity: 128 + 256 * candidates.count)
        json.beginObject()
        json.member("model", request.model)
        json.member("target_model", request.targetModel)
        json.member("prompt_tokens", request.promptTokenCount)
        json.member("priority", request.priority)
        json.key("endpoints")
        json.beginArray()
        for candidate in candidates {
            let server = context.endpoints[candidate].server
            let load = context.loads[candidate]
            json.beginObject()
            json.member("name", server.name)
            json.member("address", server.address.description)
            json.key("labels")
            json.beginObject()
            for (key, value) in server.labels.sorted(by: { $0.key < $1.key }) {
                json.member(key, value)
            }
            json.endObject()
            json.member("waiting", load.waitingCount)
            json.member("running", load.runningCount)
            json.member("kv_usage", load.kvUsage)
            json.member("in_flight", context.inFlight[candidate])
            json.member("prefill_tokens_in_flight", context.prefillTokensInFlight[candidate])
            json.member(
                "cached_tokens",
                request.promptTokenCount - context.uncachedTokenCount(at: candidate))
            json.endObject()
        }
        json.endArray()
        json.endObject()
        return json.bytes
    }

    private static func scores(_ body: [UInt8], count: Int) -> [Double]? {
        guard let list = (try? JSONDocument.parse(body))?["scores"] else { return nil }
        var scores: [Double] = []
        for element in list.elements {
            guard let score = element.double, score.isFinite else { return nil }
            scores.append(score)
        }
        return scores.count == count ? scores : nil
    }
}
