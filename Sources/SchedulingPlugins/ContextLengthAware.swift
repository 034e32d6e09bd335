public import Configuration
import Core
public import Scheduling

/// `context-length-aware`: endpoints whose label `min-max` fits the length of the prompt.
///
/// Inside, the score is 0.3 + 0.7 * (0.7 / (1 + width / 10000) + 0.3 * room / width), so that
/// tight ranges come first; outside 0.3 / (1 + distance / 1000); without a label 0.5.
public final class ContextLengthAware: Filter, Scorer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "context-length-aware"
    /// Its type and name.
    public let name: PluginName

    private let label: String
    private let enableFiltering: Bool

    /// Parameters: `label` (llm-d.ai/context-length-range), `enableFiltering` (false).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        label =
            try source.parameters.optional("label")?.string() ?? "llm-d.ai/context-length-range"
        enableFiltering = try source.parameters.optional("enableFiltering")?.boolean() ?? false
    }

    /// Keeps those that fit, and those without a label, if it filters at all.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        guard enableFiltering else { return }
        let length = context.request.promptTokenCount
        candidates.removeAll { candidate in
            guard let text = context.endpoints[candidate].server.labels[label] else { return false }
            return !(Self.range(text)?.contains(length) ?? false)
        }
    }

    /// Scores by label.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        let length = context.request.promptTokenCount
        for (i, candidate) in candidates.enumerated() {
            guard let text = context.endpoints[candidate].server.labels[label] else {
                scores[i] = 0.5
                continue
            }
            scores[i] = Self.range(text).map { Self.score(length, $0) } ?? 0
        }
    }

    private static func score(_ length: Int, _ range: ClosedRange<Int>) -> Double {
        guard range.contains(length) else {
            let distance = max(range.lowerBound - length, length - range.upperBound)
            return 0.3 / (1 + Double(distance) / 1000)
        }
        let width = Double(range.upperBound - range.lowerBound)
        guard width > 0 else { return 1 }
        let room = Double(range.upperBound - length) / width
        return 0.3 + 0.7 * (0.7 / (1 + width / 10_000) + 0.3 * room)
    }

    /// The range that a label says; nil if it is malformed.
    private static func range(_ text: String) -> ClosedRange<Int>? {
        let parts = text.utf8.split(separator: UInt8(ascii: "-"), omittingEmptySubsequences: false)
        guard parts.count == 2, let low = Int(Substring(parts[0])),
            let high = Int(Substring(parts[1])), low >= 0, low <= high
        else { return nil }
        return low...high
    }
}
