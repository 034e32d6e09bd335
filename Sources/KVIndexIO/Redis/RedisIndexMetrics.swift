public import Telemetry

/// The metrics of an index that is shared through Redis. Any thread.
public final class RedisIndexMetrics: Sendable {
    let isConnected: Gauge
    let waitingChanges: Gauge
    let droppedBatches: Counter
    let refusedBatches: Counter
    let readings: Counter
    let disagreement: Gauge

    /// Registers the metrics.
    public init(_ registry: MetricsRegistry) {
        let redis = "llm_d_epp_kv_cache_redis_"
        isConnected = registry.gauge(
            redis + "connected", "Whether Redis takes commands: 1 or 0.")
        waitingChanges = registry.gauge(
            redis + "waiting_changes", "Blocks stored or removed that Redis is not told of yet.")
        droppedBatches = registry.counter(
            redis + "dropped_batches_total",
            "Times that more changes waited than may, or that a batch was lost on its way; the "
                + "endpoint's blocks are then compared with those in Redis.")
        refusedBatches = registry.counter(
            redis + "refused_batches_total",
            "Batches that Redis refused: it is read-only, full or cannot write its disk.")
        readings = registry.counter(
            redis + "readings_total", "Times that all blocks of an endpoint were read.")
        disagreement = registry.gauge(
            redis + "convergence_age_seconds",
            "Time since this router and Redis last agreed on every endpoint; 0 while they do.")
    }
}
