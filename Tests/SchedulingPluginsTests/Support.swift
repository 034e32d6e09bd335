import Configuration
import Core
import Scheduling
import SchedulingPlugins
import Synchronization
import Testing

struct NoHeaders: HeaderLookup {
    func value(ofHeader name: String) -> String? { nil }
}

struct Headers: HeaderLookup {
    var values: [String: String] = [:]
    func value(ofHeader name: String) -> String? { values[name] }
}

/// A producer of the match that the test asks for.
final class StubProducer: DataProducer {
    let name: PluginName
    init(_ source: inout PluginSource) { name = source.name }
    func produce(into context: inout SchedulingContext) {}
}

/// Makes the plugin of a type with parameters in YAML flow style, as a configuration does.
func plugin<Kind: Plugin>(
    _ type: String, _ parameters: String = "{}", as kind: Kind.Type
) throws -> Kind {
    let captured = Captured()
    var registry = PluginRegistry.standard
    registry.register("stub-producer") { source in StubProducer(&source) }
    registry.register("capture") { (source) throws(ConfigError) in
        let target = try source.parameters.required("target")
        let found = try source.plugin(target, as: (any Plugin).self, called: "plugin")
        captured.plugin.withLock { $0 = found }
        return found
    }
    _ = try EndpointPickerConfig.scheduler(
        parsing: """
            apiVersion: llm-d.ai/v1alpha1
            kind: EndpointPickerConfig
            plugins:
            - type: \(type)
              name: subject
              parameters: \(parameters)
            - {type: stub-producer, name: approx-prefix-cache-producer}
            - {type: stub-producer, name: media-stub}
            - {type: always-disagg-pd-decider}
            - {type: always-disagg-multimodal-decider}
            - {type: capture, parameters: {target: subject}}
            schedulingProfiles:
            - {name: decode, plugins: []}
            \(type == "disagg-profile-handler" ? "- {name: prefill, plugins: []}" : "")
            \(type == "disagg-profile-handler" ? "- {name: encode, plugins: []}" : "")
            """,
        file: "t.yaml", registry: registry)
    guard let plugin = captured.plugin.withLock({ $0 }) as? Kind else { throw WrongKind() }
    return plugin
}

private struct WrongKind: Error {}

private final class Captured: Sendable {
    let plugin = Mutex<(any Plugin)?>(nil)
}

/// A context of endpoints that differ by what the test is about.
func context(
    count: Int, labels: [[String: String]]? = nil, loads: [ServerLoad]? = nil,
    inFlight: [Int]? = nil, prefillTokensInFlight: [Int]? = nil, promptTokenCount: Int = 0
) -> SchedulingContext {
    var context = SchedulingContext(
        request: SchedulingRequest(
            id: "r", model: "m", headers: NoHeaders(), promptTokenCount: promptTokenCount))
    context.endpoints = (0..<count).map {
        Endpoint(
            ModelServer(
                name: "e\($0)", address: SocketAddress(host: "10.0.0.\($0)", port: 8000),
                labels: labels?[$0] ?? [:]),
            id: UInt32($0))
    }
    context.loads = loads ?? Array(repeating: ServerLoad(), count: count)
    context.inFlight = inFlight ?? Array(repeating: 0, count: count)
    context.prefillTokensInFlight = prefillTokensInFlight ?? Array(repeating: 0, count: count)
    return context
}

func load(waiting: Int = 0, running: Int = 0, kvUsage: Double = 0) -> ServerLoad {
    var load = ServerLoad()
    load.waitingCount = waiting
    load.runningCount = running
    load.kvUsage = kvUsage
    return load
}

extension SchedulingContext {
    /// A match of the producer that plugins read unless they are told another.
    mutating func match(_ matched: [Int], of total: Int, blockSize: Int = 16) {
        let slot = resetPrefixMatch(by: "approx-prefix-cache-producer", blockSize: blockSize)
        prefixMatches[slot].totalBlocks = total
        prefixMatches[slot].matchedBlocks = matched
        prefixMatches[slot].weightedBlocks = matched.map(Double.init)
    }

    mutating func header(_ name: String, _ value: String?) {
        request.headers = Headers(values: value.map { [name: $0] } ?? [:])
    }
}

extension PreRequest {
    func headers(after result: SchedulingResult, in context: SchedulingContext) -> [HeaderMutation]
    {
        var headers: [HeaderMutation] = []
        prepare(result, in: context, headers: &headers)
        return headers
    }
}

func result(_ primary: Int, prefill: Int? = nil, encode: [Int] = []) -> SchedulingResult {
    SchedulingResult(
        primary: [ScoredCandidate(index: primary, score: 1)],
        prefill: prefill.map { [ScoredCandidate(index: $0, score: 1)] } ?? [],
        encode: encode.map { ScoredCandidate(index: $0, score: 1) })
}

func expect(
    _ scores: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(scores.count == expected.count, sourceLocation: sourceLocation)
    for (score, wanted) in zip(scores, expected) {
        #expect(abs(score - wanted) < 1e-9, "\(scores)", sourceLocation: sourceLocation)
    }
}

extension Scorer {
    func scores(in context: SchedulingContext) -> [Double] {
        var scores = [Double](repeating: 0, count: context.endpoints.count)
        var span = scores.mutableSpan
        score(Array(context.endpoints.indices), in: context, into: &span)
        return scores
    }
}

extension Filter {
    func kept(in context: SchedulingContext) -> [Int] {
        var candidates = Array(context.endpoints.indices)
        filter(&candidates, in: context)
        return candidates
    }
}
