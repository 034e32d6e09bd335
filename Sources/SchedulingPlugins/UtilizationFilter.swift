public import Configuration
import Core
public import Scheduling

/// `utilization-filter`: endpoints none of whose figures is above its limit.
public final class UtilizationFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "utilization-filter"
    /// Its type and name.
    public let name: PluginName

    private enum Metric: String, CaseIterable {
        case activeRequests = "active-requests"
        case runningRequests = "running-requests"
        case waitingQueue = "waiting-queue"
        case kvCacheUtilization = "kv-cache-utilization"
    }

    private let conditions: [(metric: Metric, maxValue: Double)]
    private let fallbackOnEmpty: Bool

    /// Parameters: `conditions`, a list of `metric` (active-requests, running-requests,
    /// waiting-queue or kv-cache-utilization) and `maxValue`; `fallbackOnEmpty` (false).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        var conditions: [(Metric, Double)] = []
        for entry in try source.parameters.required("conditions").list() {
            conditions.append(
                try entry.section { (section) throws(ConfigError) in
                    (
                        try section.required("metric").choice(of: Metric.self),
                        try section.required("maxValue").number(in: 0...1e15)
                    )
                })
        }
        self.conditions = conditions
        fallbackOnEmpty = try source.parameters.optional("fallbackOnEmpty")?.boolean() ?? false
    }

    /// Keeps those that pass, or all if that is none and it may.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        func passes(_ candidate: Int) -> Bool {
            conditions.allSatisfy { condition in
                let value =
                    switch condition.metric {
                    case .activeRequests: Double(context.inFlight[candidate])
                    case .runningRequests: Double(context.loads[candidate].runningCount)
                    case .waitingQueue: Double(context.loads[candidate].waitingCount)
                    case .kvCacheUtilization: context.loads[candidate].kvUsage
                    }
                return value <= condition.maxValue
            }
        }
        if fallbackOnEmpty, !candidates.contains(where: passes) { return }
        candidates.removeAll { !passes($0) }
    }
}
