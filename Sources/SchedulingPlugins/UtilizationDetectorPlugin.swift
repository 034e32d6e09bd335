public import Configuration
import Core
public import Scheduling

/// `utilization-detector`: how full endpoints are by the queue and the KV cache that they report;
/// as a filter, those that are not too full.
public final class UtilizationDetectorPlugin: SaturationGauge, ConfigurablePlugin {
    /// The type's name.
    public static let type = "utilization-detector"
    /// Its type and name.
    public let name: PluginName

    /// How much longer than they are new metrics are believed: a scrape that is late must not
    /// stop the pool.
    private static let hold = Duration.seconds(5)

    private let roofline: Roofline
    private let headroom: Double
    private let maximumAge: Duration

    /// Parameters: `queueDepthThreshold` (5), `kvCacheUtilThreshold` (0.8),
    /// `metricsStalenessThreshold` (200ms), `headroom` (0).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        roofline = try Roofline(&source)
        headroom = try source.parameters.optional("headroom")?.number(in: 0...1e6) ?? 0
        let threshold = try source.parameters.optional("metricsStalenessThreshold")?.duration()
        maximumAge = (threshold ?? .milliseconds(200)) + Self.hold
    }

    /// The mean of max(waiting / threshold, KV use / threshold); 1 for one that tells nothing.
    public func saturation(of candidates: [Int], in context: SchedulingContext) -> Double {
        guard !candidates.isEmpty else { return 1 }
        var sum = 0.0
        for candidate in candidates {
            let load = context.loads[candidate]
            sum += isStale(load, context.now) ? 1 : roofline.use(of: load)
        }
        return sum / Double(candidates.count)
    }

    /// Keeps those within threshold * (1 + headroom), or all if there are none.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        let queueLimit = roofline.queueDepthThreshold * (1 + headroom)
        let kvLimit = min(1, roofline.kvCacheUtilThreshold * (1 + headroom))
        func passes(_ candidate: Int) -> Bool {
            let load = context.loads[candidate]
            return !isStale(load, context.now) && Double(load.waitingCount) <= queueLimit
                && load.kvUsage <= kvLimit
        }
        guard candidates.contains(where: passes) else { return }
        candidates.removeAll { !passes($0) }
    }

    private func isStale(_ load: ServerLoad, _ now: MonotonicTime) -> Bool {
        guard let scrapedAt = load.scrapedAt else { return true }
        return now - scrapedAt > maximumAge
    }
}
