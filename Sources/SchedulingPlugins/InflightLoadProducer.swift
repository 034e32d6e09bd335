public import Configuration
public import Core
public import Scheduling
import Synchronization

/// `inflight-load-producer`: what is in flight at each endpoint.
///
/// Requests and the prompt tokens yet to be computed are counted always, with or without it. It
/// adds the tokens that are likely to be generated, if asked to: outputRatio times the prompt's.
public final class InflightLoadProducer:
    DataProducer, PreRequest, ResponseObserver, OutputEstimate, ConfigurablePlugin
{
    /// The type's name.
    public static let type = "inflight-load-producer"
    /// Its type and name.
    public let name: PluginName

    /// Whether it adds anything.
    public let estimatesOutput: Bool

    private let outputRatio: Double
    private let maxEstimatedOutputTokens: Int
    private let outputTokens = Mutex<[UInt32: Int]>([:])
    private let othersOutputTokens = Mutex<[UInt32: Int]>([:])

    /// Parameters: `addEstimatedOutputTokens` (false), `outputRatio` (1.5),
    /// `maxEstimatedOutputTokens` (unlimited), `prefixMatchInfoProducerName` (the first producer
    /// that has a match).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        estimatesOutput =
            try source.parameters.optional("addEstimatedOutputTokens")?.boolean() ?? false
        outputRatio = try source.parameters.optional("outputRatio")?.number(in: 0...1000) ?? 1.5
        maxEstimatedOutputTokens =
            try source.parameters.optional("maxEstimatedOutputTokens")?.integer(in: 0 ... .max)
            ?? .max
        if let producer = source.parameters.optional("prefixMatchInfoProducerName") {
            _ = try source.plugin(producer, as: (any DataProducer).self, called: "data producer")
        }
    }

    /// Writes the tokens that endpoints are likely to generate yet.
    public func produce(into context: inout SchedulingContext) {
        guard estimatesOutput else { return }
        let others = othersOutputTokens.withLock(\.self)
        outputTokens.withLock { tokens in
            for endpoint in context.endpoints {
                context.outputTokensInFlight.append(
                    (tokens[endpoint.id] ?? 0) + (others[endpoint.id] ?? 0))
            }
        }
    }

    /// What this router's requests are likely to be given yet, by endpoint.
    public var outputTokensInFlight: [UInt32: Int] { outputTokens.withLock(\.self) }

    /// Takes what other routers' are.
    public func setOthersOutputTokens(_ tokens: [UInt32: Int]) {
        othersOutputTokens.withLock { $0 = tokens }
    }

    /// Counts the request in.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        guard estimatesOutput else { return }
        let endpoint = context.endpoints[result.primary[0].index].id
        add(estimate(promptTokens: context.request.promptTokenCount), to: endpoint)
    }

    /// Counts the request out.
    public func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {
        guard estimatesOutput else { return }
        add(-estimate(promptTokens: request.promptTokenCount), to: request.endpoint.id)
    }

    private func estimate(promptTokens: Int) -> Int {
        Int(min(Double(promptTokens) * outputRatio, Double(maxEstimatedOutputTokens)))
    }

    private func add(_ count: Int, to endpoint: UInt32) {
        outputTokens.withLock { tokens in
            let sum = tokens[endpoint, default: 0] + count
            tokens[endpoint] = sum == 0 ? nil : sum
        }
    }
}
