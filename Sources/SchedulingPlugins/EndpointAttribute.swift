import Configuration
import Core

/// A figure of an endpoint by its name: one of those that every engine tells, or one that
/// `core-metrics-extractor` scrapes besides.
enum EndpointAttribute: Sendable {
    case waiting
    case running
    case kvUsage
    case scraped(String)

    init(_ name: String) {
        self =
            switch name {
            case "WaitingQueueSize": .waiting
            case "RunningRequestsSize": .running
            case "KVCacheUsagePercent": .kvUsage
            default: .scraped(name)
            }
    }

    /// The name under which it is scraped, if not every engine tells it.
    var scrapedName: String? {
        if case .scraped(let name) = self { name } else { nil }
    }

    /// Nil if the endpoint has not told it.
    func value(_ load: ServerLoad) -> Double? {
        switch self {
        case .waiting: Double(load.waitingCount)
        case .running: Double(load.runningCount)
        case .kvUsage: load.kvUsage
        case .scraped(let name): load.attributes[name]
        }
    }
}
