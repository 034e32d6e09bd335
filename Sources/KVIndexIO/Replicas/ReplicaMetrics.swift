import Core
import Synchronization
public import Telemetry

/// The metrics of an index that is shared with other routers directly. Any thread.
public final class ReplicaMetrics: Sendable {
    let followed: Gauge
    let followers: Gauge
    let snapshotsTold: Counter
    let snapshotsRead: Counter
    let bytesTold: Counter
    let bytesRead: Counter
    let logOverruns: Counter
    let disagreement: Gauge
    let lag: Gauge
    let loadPeers: Gauge
    let loadAge: Gauge
    private let peers: PeerBoard

    /// Registers the metrics.
    public init(_ registry: MetricsRegistry) {
        let replica = "llm_d_epp_kv_cache_replica_"
        followed = registry.gauge(
            replica + "followed_peers", "Routers that this one is connected to and may follow.")
        followers = registry.gauge(
            replica + "followers", "Routers that are connected and may follow this one.")
        snapshotsTold = registry.counter(
            replica + "snapshots_sent_total", "Times that all blocks of an endpoint were sent.")
        snapshotsRead = registry.counter(
            replica + "snapshots_received_total",
            "Times that all blocks of an endpoint were received.")
        bytesTold = registry.counter(replica + "sent_bytes_total", "Bytes sent to other routers.")
        bytesRead = registry.counter(
            replica + "received_bytes_total", "Bytes received from other routers.")
        logOverruns = registry.counter(
            replica + "log_overruns_total",
            "Times that a follower was too slow for the changes of an endpoint and was sent all "
                + "its blocks again.")
        disagreement = registry.gauge(
            replica + "convergence_age_seconds",
            "Time since this router last knew of every endpoint what others knew; 0 while it does.")
        lag = registry.gauge(
            replica + "lag_changes",
            "Changes and blocks that the follower furthest behind has yet to be sent.")
        loadPeers = registry.gauge(
            replica + "load_peers", "Routers whose requests in flight count here.")
        loadAge = registry.gauge(
            replica + "load_age_seconds",
            "Time since the one of them that was silent longest told of its load.")
        let peers = PeerBoard()
        self.peers = peers
        registry.gauges(
            replica + "heard_age_seconds",
            "Time since another router was last heard; before, since it was first looked for.",
            labels: ["peer"]
        ) {
            let now = MonotonicTime.now
            return peers.heardAt.map { (["\($0)"], max(0, (now - $1).seconds)) }
        }
    }

    func showPeers(_ heardAt: [SocketAddress: MonotonicTime]) { peers.show(heardAt) }
}

/// When other routers were last heard. Written on the loop, read on any thread.
private final class PeerBoard: Sendable {
    private let last = Mutex<[SocketAddress: MonotonicTime]>([:])

    var heardAt: [SocketAddress: MonotonicTime] { last.withLock(\.self) }

    func show(_ heardAt: [SocketAddress: MonotonicTime]) { last.withLock { $0 = heardAt } }
}
