public import Configuration
public import Scheduling

/// `concurrency-detector` as a filter: the endpoints where less is known to be in flight than
/// their limit. How full a pool is by the same rule says flow control.
public final class ConcurrencyDetectorPlugin: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "concurrency-detector"
    /// Its type and name.
    public let name: PluginName

    private enum Mode: String, CaseIterable {
        case requests
        case tokens
        case hybrid
    }

    private let mode: Mode
    private let maxConcurrency: Double
    private let maxTokenConcurrency: Double
    private let headroom: Double

    /// Parameters: `concurrencyMode` (requests; or tokens, or hybrid), `maxConcurrency` (100),
    /// `maxTokenConcurrency` (1000000), `headroom` (0).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        mode =
            try source.parameters.optional("concurrencyMode")?.choice(of: Mode.self) ?? .requests
        maxConcurrency = Double(
            try source.parameters.optional("maxConcurrency")?.integer(in: 1 ... .max) ?? 100)
        maxTokenConcurrency = Double(
            try source.parameters.optional("maxTokenConcurrency")?.integer(in: 1 ... .max)
                ?? 1_000_000)
        headroom = try source.parameters.optional("headroom")?.number(in: 0...1e6) ?? 0
    }

    /// Keeps those below capacity * (1 + headroom).
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { candidate in
            share(
                requests: Double(context.inFlight[candidate]),
                tokens: Double(context.tokensInFlight(at: candidate))) >= 1 + headroom
        }
    }

    private func share(requests: Double, tokens: Double) -> Double {
        switch mode {
        case .requests: requests / maxConcurrency
        case .tokens: tokens / maxTokenConcurrency
        case .hybrid: max(requests / maxConcurrency, tokens / maxTokenConcurrency)
        }
    }
}
