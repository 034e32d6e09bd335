import Scheduling

/// How far below its objectives a request is expected to stay at an endpoint, in milliseconds;
/// less than 0 where it is expected to miss them. Without an objective the first is minus the
/// prediction, so that endpoints still differ.
struct LatencyHeadroom {
    var ttft: Double
    var tpot: Double

    /// Nil if nothing is predicted for the endpoint.
    init?(of endpoint: Int, in context: SchedulingContext) {
        guard !context.predictions.isEmpty, let prediction = context.predictions[endpoint] else {
            return nil
        }
        ttft =
            (context.request.ttftObjective?.milliseconds ?? 0) - prediction.ttftMilliseconds
        tpot =
            (context.request.tpotObjective?.milliseconds ?? 0) - prediction.tpotMilliseconds
    }

    /// Whether no objective that the request has is missed.
    static func isMet(at endpoint: Int, in context: SchedulingContext) -> Bool? {
        guard let headroom = LatencyHeadroom(of: endpoint, in: context) else { return nil }
        let request = context.request
        return (request.ttftObjective == nil || headroom.ttft >= 0)
            && (request.tpotObjective == nil || headroom.tpot >= 0)
    }
}

extension Duration {
    fileprivate var milliseconds: Double {
        Double(components.seconds) * 1000 + Double(components.attoseconds) * 1e-15
    }
}
