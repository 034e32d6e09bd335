public import KVIndex
public import Telemetry

/// The metrics of an index and of its event source, under llm-d's names and, where llm-d has none,
/// names of the same kind. One index per registry. Any thread.
public final class KVIndexMetrics: Sendable {
    let activeSubscribers: Gauge
    let reconnections: Counter
    let messages: Counter
    let zmqErrors: Counter
    let decodeErrors: Counter
    let unknownEvents: Counter
    let unknownEngines: Counter
    let gaps: Counter
    let lost: Counter
    let replays: Counter
    let failedReplays: Counter
    let restarts: Counter
    let quarantines: Counter
    let quarantinedEngines: Gauge
    private let registry: MetricsRegistry

    private static let events = "llm_d_epp_kv_cache_events_"

    /// Registers the metrics.
    public init(_ registry: MetricsRegistry, index: KVIndex) {
        self.registry = registry
        let events = Self.events
        activeSubscribers = registry.gauge(
            events + "active_subscribers", "Engines whose KV events are received.")
        reconnections = registry.counter(
            events + "subscriber_reconnections_total",
            "Connections to an engine's KV events made again after a loss.")
        messages = registry.counter(
            events + "messages_received_total", "KV-event batches received, replays included.")
        zmqErrors = registry.counter(
            events + "zmq_errors_total", "Sockets that failed and messages of a wrong shape.")
        decodeErrors = registry.counter(
            events + "decode_errors_total", "KV-event batches that are not what engines send.")
        unknownEvents = registry.counter(
            events + "unknown_total", "KV events of types that the index does not know.")
        unknownEngines = registry.counter(
            events + "unknown_engines_total", "KV-event batches of engines outside the pool.")
        gaps = registry.counter(events + "gaps_total", "Times that KV-event batches were missing.")
        lost = registry.counter(
            events + "lost_batches_total",
            "KV-event batches that were missing and never came, or could not be read.")
        replays = registry.counter(events + "replays_total", "Replays asked for.")
        failedReplays = registry.counter(
            events + "replays_failed_total", "Replays given up.")
        restarts = registry.counter(
            events + "engine_restarts_total", "New engine processes found by their KV events.")
        quarantines = registry.counter(
            events + "quarantines_total",
            "Times that an engine sent so many bad KV-event batches that it was ignored for a while."
        )
        quarantinedEngines = registry.gauge(
            events + "quarantined_engines",
            "Engines whose KV events are ignored now because of bad batches.")
        Self.register(index, registry)
    }

    private static func register(_ index: KVIndex, _ registry: MetricsRegistry) {
        let counters: [(name: String, help: String, read: @Sendable (KVIndex.Statistics) -> Int)] =
            [
                ("index_admissions_total", "Blocks taken into the index.", { $0.admissionCount }),
                ("index_evictions_total", "Blocks forgotten to save memory.", { $0.evictionCount }),
                ("index_lookup_requests_total", "Lookups.", { $0.lookupCount }),
                (
                    "index_lookup_hits_total", "Lookups that found at least one block.",
                    { $0.lookupHitCount }
                ),
                (
                    "events_stores_skipped_total", "Stored blocks that cannot be indexed.",
                    { $0.storesSkippedCount }
                ),
                (
                    "events_removals_skipped_total", "Removals of blocks that are not known.",
                    { $0.removalsSkippedCount }
                ),
            ]
        for counter in counters {
            registry.counter("llm_d_epp_kv_cache_" + counter.name, counter.help) {
                Double(counter.read(index.statistics))
            }
        }
        // Upstream's names of old, which dashboards still use.
        for counter in counters where counter.name.hasPrefix("index_") {
            registry.counter("kvcache_" + counter.name, counter.help) {
                Double(counter.read(index.statistics))
            }
        }
        registry.gauge("llm_d_epp_kv_cache_index_size_bytes", "Memory that the index takes.") {
            Double(index.statistics.byteCount)
        }
        registry.gauge("llm_d_epp_kv_cache_index_blocks", "Different blocks in the index.") {
            Double(index.statistics.blockCount)
        }
    }

    /// Registers the series of single engines, which come and go with them.
    func show(_ board: EngineBoard) {
        let gauges: [(name: String, help: String, read: @Sendable (KVEngineState) -> Double?)] = [
            (
                "last_sequence", "The number of an engine's last KV-event batch in the index.",
                { $0.sequence.lastSequence.map { Double($0) } }
            ),
            (
                "lag_batches", "KV-event batches of an engine that are not in the index yet.",
                { Double($0.lagCount) }
            ),
            (
                "parked_stores", "Stored blocks of an engine that wait for their parent.",
                { Double($0.index.parkedCount) }
            ),
            (
                "engine_blocks", "Blocks of an engine that the index holds.",
                { Double($0.index.blockCount) }
            ),
            (
                "engine_quarantined", "1 while an engine's KV events are ignored.",
                { $0.quarantineEnd == nil ? 0 : 1 }
            ),
        ]
        for gauge in gauges {
            registry.gauges(Self.events + gauge.name, gauge.help, labels: ["endpoint"]) {
                board.engines.compactMap { engine in
                    gauge.read(engine).map { ([engine.name], $0) }
                }
            }
        }
    }

    /// Adds what a tracker counted since `before`.
    func add(_ now: SequenceTracker.Counters, since before: SequenceTracker.Counters) {
        gaps.increment(by: now.gapCount - before.gapCount)
        lost.increment(by: Int(clamping: now.lostCount - before.lostCount))
        replays.increment(by: now.replayCount - before.replayCount)
        failedReplays.increment(by: now.failedReplayCount - before.failedReplayCount)
        restarts.increment(by: now.restartCount - before.restartCount)
    }
}
