public import Telemetry

/// The metrics of an index that is shared in llm-d's layout. Any thread.
public final class UpstreamIndexMetrics: Sendable {
    let shared: RedisIndexMetrics
    let questions: Counter
    let droppedPrompts: Counter
    let importedBlocks: Gauge
    let malformed: Counter

    /// Registers the metrics, those of ``RedisIndexMetrics`` among them.
    public init(_ registry: MetricsRegistry) {
        let redis = "llm_d_epp_kv_cache_redis_"
        shared = RedisIndexMetrics(registry)
        questions = registry.counter(
            redis + "lookup_blocks_total", "Blocks that Redis was asked for.")
        droppedPrompts = registry.counter(
            redis + "lookup_prompts_dropped_total",
            "Prompts that Redis was not asked for, because too many waited.")
        importedBlocks = registry.gauge(
            redis + "imported_blocks",
            "Blocks in the index that are known from Redis and from no event.")
        malformed = registry.counter(
            redis + "malformed_entries_total",
            "Keys and fields in Redis that are not what llm-d writes.")
    }
}
