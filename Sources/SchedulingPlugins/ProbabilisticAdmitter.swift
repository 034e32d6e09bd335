public import Configuration
import Core
public import Scheduling

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `probabilistic-admitter`: refuses requests that may be shed with probability
/// min(1, k * saturation^power); saturation is the mean of max(waiting / threshold,
/// KV use / threshold).
public final class ProbabilisticAdmitter: Admitter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "probabilistic-admitter"
    /// Its type and name.
    public let name: PluginName

    private let roofline: Roofline
    private let power: Double
    private let k: Double

    /// Parameters: `queueDepthThreshold` (5), `kvCacheUtilThreshold` (0.8), `power` (5), `k`
    /// (300).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        roofline = try Roofline(&source)
        power = try source.parameters.optional("power")?.number(in: 1e-6...1e3) ?? 5
        k = try source.parameters.optional("k")?.number(in: 1e-6...1e12) ?? 300
    }

    /// Lets every request of a priority from 0 up through.
    public func admit(
        _ candidates: [Int], in context: SchedulingContext
    ) throws(SchedulingFailure) {
        guard context.request.priority < 0, !candidates.isEmpty else { return }
        var sum = 0.0
        for candidate in candidates {
            let load = context.loads[candidate]
            sum += load.scrapedAt == nil ? 1 : roofline.use(of: load)
        }
        let probability = k * pow(sum / Double(candidates.count), power)
        var random = context.random(salt: name.name)
        guard Double.random(in: 0..<1, using: &random) < probability else { return }
        throw .refused(
            by: name.name,
            .dropped(
                status: 429, reason: .saturated, "The pool is busy, and this may be shed."))
    }
}
