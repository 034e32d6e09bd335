public import Configuration
import Core
public import Scheduling

/// `utilization-detector` as a filter: the endpoints that are not too full by the queue and the KV
/// cache that they report. How full a pool is by the same rule says flow control.
public final class UtilizationDetectorPlugin: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "utilization-detector"
    /// Its type and name.
    public let name: PluginName

    private let roofline: Roofline
    private let headroom: Double
    private let maximumAge: Duration

    /// Parameters: `queueDepthThreshold` (5), `kvCacheUtilThreshold` (0.8),
    /// `metricsStalenessThreshold` (200ms), `metricsHold` (5s: how much longer metrics are
    /// believed; a scrape that is late must not stop the pool), `headroom` (0).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        roofline = try Roofline(&source)
        headroom = try source.parameters.optional("headroom")?.number(in: 0...1e6) ?? 0
        let threshold = try source.parameters.optional("metricsStalenessThreshold")?.duration()
        let hold = try source.parameters.optional("metricsHold")?.duration()
        maximumAge = (threshold ?? .milliseconds(200)) + (hold ?? .seconds(5))
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
