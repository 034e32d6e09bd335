import Core
import FlowControl
import Synchronization
import Telemetry

/// The metrics of flow control, by the names of the upstream endpoint picker. Any thread.
final class FlowMetrics: Sendable {
    /// What a request is counted by.
    struct Labels: Hashable, Sendable {
        var fairnessID: String
        var priority: Int
        var model: String
    }

    /// How a request left the queues.
    enum Outcome: String {
        case dispatched = "Dispatched"
        case rejectedCapacity = "RejectedCapacity"
        case rejectedNoEndpoints = "RejectedNoEndpoints"
        case rejectedOther = "RejectedOther"
        case expired = "EvictedTTL"
        case noEndpoints = "EvictedNoEndpoints"
        case contextCancelled = "EvictedContextCancelled"
        case evictedOther = "EvictedOther"

        /// Of a request that waited.
        init(ending rejection: FlowRejection) {
            self =
                switch rejection {
                case .expired(noEndpoints: false): .expired
                case .expired(noEndpoints: true): .noEndpoints
                default: .evictedOther
                }
        }

        /// Of one that was not taken.
        init(refusing rejection: FlowRejection) {
            self =
                switch rejection {
                case .capacity(noEndpoints: false): .rejectedCapacity
                case .capacity(noEndpoints: true): .rejectedNoEndpoints
                default: .rejectedOther
                }
        }
    }

    private struct Key: Hashable {
        var labels: Labels
        var outcome: Outcome
    }

    private struct Series {
        var queueing: Histogram
        var requests: Counter
    }

    /// Fairness ids come from clients: so many have series of their own, the rest share one.
    private static let maximumFairnessIDs = 100
    private static let maximumSeries = 4000

    private let poolName: String
    private let queueing: Family<Histogram>
    private let enqueueing: Family<Histogram>
    private let requests: Family<Counter>
    private let cycles: Histogram
    private let fairnessIDs = FairnessLabels(limit: maximumFairnessIDs)
    private let series = Mutex<[Key: Series]>([:])

    init(_ registry: MetricsRegistry, poolName: String) {
        self.poolName = poolName
        queueing = registry.histograms(
            "llm_d_epp_flow_control_request_queue_duration_seconds",
            "From a request's arrival at flow control to its outcome.",
            labels: [
                "fairness_id", "priority", "outcome", "inference_pool", "model_name",
                "target_model_name",
            ], bounds: [0.0001, 0.001] + Buckets.requestSeconds, limit: Self.maximumSeries)
        enqueueing = registry.histograms(
            "llm_d_epp_flow_control_request_enqueue_duration_seconds",
            "Time to take a request or to let it pass.",
            labels: ["fairness_id", "priority", "outcome"],
            bounds: [0.000_001, 0.000_01] + Buckets.schedulingSeconds, limit: Self.maximumSeries)
        requests = registry.counters(
            "llm_d_epp_flow_control_requests_total", "Requests by what became of them.",
            labels: ["outcome", "priority", "inference_pool"])
        cycles = registry.histogram(
            "llm_d_epp_flow_control_dispatch_cycle_duration_seconds",
            "Time to look who may go on.",
            bounds: [0.000_001, 0.000_01] + Buckets.schedulingSeconds)
    }

    func cycle(took: Duration) { cycles.observe(took) }

    /// A request has come, and waits or does not.
    func arrived(_ labels: Labels, _ admission: FlowController.Admission, took: Duration) {
        let outcome: Outcome
        switch admission {
        case .passed: outcome = .dispatched
        case .rejected(let rejection): outcome = Outcome(refusing: rejection)
        case .waits:
            // Its outcome is to come.
            return enqueueing.child(fairnessID(labels), String(labels.priority), "Queued")
                .observe(took)
        }
        enqueueing.child(fairnessID(labels), String(labels.priority), outcome.rawValue)
            .observe(took)
        ended(labels, outcome, after: .zero)
    }

    /// A request that had waited does so no more.
    func left(_ ticket: FlowTicket, _ outcome: Outcome, now: MonotonicTime) {
        ended(ticket.labels, outcome, after: now - ticket.enqueuedAt)
    }

    /// The label of a fairness id.
    func fairnessID(_ labels: Labels) -> String { fairnessIDs.label(of: labels.fairnessID) }

    private func ended(_ labels: Labels, _ outcome: Outcome, after time: Duration) {
        var labels = labels
        labels.fairnessID = fairnessID(labels)
        let key = Key(labels: labels, outcome: outcome)
        let series = series.withLock { series in
            if let known = series[key] { return known }
            let priority = String(labels.priority)
            let new = Series(
                queueing: queueing.child(
                    labels.fairnessID, priority, outcome.rawValue, poolName, labels.model,
                    labels.model),
                requests: requests.child(outcome.rawValue, priority, poolName))
            if series.count < Self.maximumSeries { series[key] = new }
            return new
        }
        series.queueing.observe(time)
        series.requests.increment()
    }
}

/// Names the first fairness ids and calls the others `other`. Any thread.
private final class FairnessLabels: Sendable {
    private let limit: Int
    private let known = Mutex<Set<String>>([])

    init(limit: Int) {
        self.limit = limit
    }

    func label(of id: String) -> String {
        known.withLock { known in
            if known.contains(id) { return id }
            guard known.count < limit else { return FlowQueues.overflowID }
            known.insert(id)
            return id
        }
    }
}

extension FlowController {
    /// Registers what is read when it is asked for.
    func register(in registry: MetricsRegistry, poolName: String) {
        let labels = [
            "fairness_id", "priority", "inference_pool", "model_name", "target_model_name",
        ]
        typealias Flow = (fairnessID: String, priority: Int, count: Int, byteCount: Int)
        let sizes: [(String, String, @Sendable (Flow) -> Int)] = [
            ("queue_size", "Requests that wait.", { $0.count }),
            ("queue_bytes", "Bytes of requests that wait.", { $0.byteCount }),
        ]
        for (name, help, read) in sizes {
            registry.gauges("llm_d_epp_flow_control_\(name)", help, labels: labels) { [weak self] in
                guard let self else { return [] }
                // A flow has requests for any model.
                return largestFlows().map {
                    ([$0.fairnessID, String($0.priority), poolName, "", ""], Double(read($0)))
                }
            }
        }
        registry.gauges(
            "llm_d_epp_flow_control_pool_saturation",
            "How full the pool is; at the ceiling of a band its requests wait.",
            labels: ["inference_pool", "stage"]
        ) { [weak self] in
            guard let saturation = self?.saturation(now: .now) else { return [] }
            return [
                ([poolName, "prefill"], saturation.prefill),
                ([poolName, "decode"], saturation.decode),
                ([poolName, "effective"], saturation.effective),
            ]
        }
        let detectorType = type(of: detector).type
        registry.gauges(
            "llm_d_epp_flow_control_stale_endpoints",
            "Endpoints that count as full because their metrics are too old.",
            labels: ["detector"]
        ) { [weak self] in
            guard let self else { return [] }
            return [([detectorType], Double(saturation(now: .now).staleCount))]
        }
        for (index, unit) in ["requests", "bytes"].enumerated() {
            registry.gauges(
                "llm_d_epp_flow_control_capacity_utilization_\(unit)",
                "The part of a band's capacity that is used.",
                labels: ["priority", "inference_pool"]
            ) { [weak self] in
                guard let uses = self?.withQueues(\.bandUses) else { return [] }
                return uses.map {
                    ([String($0.priority), poolName], index == 0 ? $0.requests : $0.bytes)
                }
            }
            registry.gauges(
                "llm_d_epp_flow_control_global_capacity_utilization_\(unit)",
                "The part of the capacity of all bands together that is used.",
                labels: ["inference_pool"]
            ) { [weak self] in
                guard let use = self?.withQueues(\.globalUse) else { return [] }
                return [([poolName], index == 0 ? use.requests : use.bytes)]
            }
        }
    }

    /// The flows that hold most; the rest of each band as one.
    private func largestFlows() -> [(
        fairnessID: String, priority: Int, count: Int, byteCount: Int
    )] {
        let flows = withQueues(\.flowSizes).sorted {
            ($1.count, $0.priority, $0.fairnessID) < ($0.count, $1.priority, $1.fairnessID)
        }
        var shown = Array(flows.filter { $0.fairnessID != FlowQueues.overflowID }.prefix(100))
        let names = Set(shown.map { "\($0.priority) \($0.fairnessID)" })
        let rest = flows.filter { !names.contains("\($0.priority) \($0.fairnessID)") }
        for (priority, flows) in Dictionary(grouping: rest, by: \.priority) {
            shown.append(
                (
                    FlowQueues.overflowID, priority, flows.reduce(0) { $0 + $1.count },
                    flows.reduce(0) { $0 + $1.byteCount }
                ))
        }
        return shown
    }
}
