import Configuration
import Core
import Scheduling

/// How full an endpoint is by what it has least of: max(waiting / threshold, KV use / threshold).
struct Roofline: Sendable {
    let queueDepthThreshold: Double
    let kvCacheUtilThreshold: Double

    /// Parameters: `queueDepthThreshold` (5), `kvCacheUtilThreshold` (0.8).
    init(_ source: inout PluginSource) throws(ConfigError) {
        queueDepthThreshold = Double(
            try source.parameters.optional("queueDepthThreshold")?.integer(in: 1 ... .max) ?? 5)
        kvCacheUtilThreshold =
            try source.parameters.optional("kvCacheUtilThreshold")?.number(in: 1e-6...1) ?? 0.8
    }

    func use(of load: ServerLoad) -> Double {
        max(Double(load.waitingCount) / queueDepthThreshold, load.kvUsage / kvCacheUtilThreshold)
    }
}
