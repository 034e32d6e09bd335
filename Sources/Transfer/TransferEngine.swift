import CTransfer
public import Core
import Synchronization

/// Moves blocks of KV cache between this process and others.
///
/// The engine has a thread of its own, which does all I/O and copying. An event loop watches
/// ``completionDescriptor`` and calls ``drain(_:)``. Every method is safe from any thread.
///
/// Peers and regions keep their engine alive.
public final class TransferEngine: Sendable {
    /// Limits and times of an engine.
    public struct Configuration: Sendable {
        /// Transfers in flight or not yet drained; `read` and `write` throw above it.
        public var maximumTransfers = 4096
        /// Notifications received but not yet drained; peers are told `queueFull` above it.
        public var maximumNotifications = 4096
        /// Between two signs of life.
        public var heartbeat = Duration.seconds(1)
        /// Silence after which a peer is dead. More than a heartbeat, the same on both sides.
        public var lease = Duration.seconds(5)

        /// The defaults.
        public init() {}
    }

    /// Counters of one path since the engine began.
    public struct PathStatistics: Hashable, Sendable {
        /// Transfers that ended, well or not.
        public var transfers: UInt64
        /// Those that ended with an error.
        public var failedTransfers: UInt64
        /// Bytes of complete blocks.
        public var byteCount: UInt64
        /// Blocks that were listed as failed.
        public var failedBlocks: UInt64
    }

    // The handle is a constant; the C engine is safe from any thread except in ct_engine_poll,
    // which only `drain` calls, under `polling`.
    nonisolated(unsafe) let handle: OpaquePointer
    private let polling = Mutex<Void>(())

    /// The engine's own name, for peers that must know whom they connect to.
    public let id: EngineID

    /// Becomes readable when events wait. Watch it; do not read or close it.
    public let completionDescriptor: Int32

    /// Starts an engine and its thread.
    ///
    /// - Throws: `invalidArgument` for more than 65,536 transfers or a lease no longer than a
    ///   heartbeat, or `outOfMemory`.
    public init(_ configuration: Configuration = Configuration()) throws(TransferError) {
        var params = ct_engine_params()
        params.struct_size = UInt32(MemoryLayout<ct_engine_params>.size)
        params.transfers_max = UInt32(clamping: configuration.maximumTransfers)
        params.notifications_max = UInt32(clamping: configuration.maximumNotifications)
        params.heartbeat_ns = UInt64(clamping: configuration.heartbeat.nanoseconds)
        params.lease_ns = UInt64(clamping: configuration.lease.nanoseconds)
        var engine: OpaquePointer?
        try TransferError.check(ct_engine_create(&params, &engine))
        guard let engine else { throw .outOfMemory }
        handle = engine
        id = EngineID(ct_engine_identity(engine))
        completionDescriptor = ct_engine_descriptor(engine)
    }

    deinit {
        ct_engine_destroy(handle)
    }

    /// Accepts peers on a numeric address; port 0 asks for a free one. Once per engine.
    ///
    /// - Returns: the address with the real port.
    /// - Throws: `addressUnavailable`, or `invalidArgument` for a host name or a second call.
    public func listen(on address: SocketAddress) throws(TransferError) -> SocketAddress {
        var port: UInt16 = 0
        try TransferError.check(ct_engine_listen(handle, address.host, address.port, &port))
        return SocketAddress(host: address.host, port: port)
    }

    /// Begins to connect to a numeric address. `.peerUp` or `.peerDown` follows.
    ///
    /// - Parameters:
    ///   - expected: fail with `stale` if another engine answers there.
    ///   - paths: the paths that may be used. A single one requires it: the connect fails with
    ///     `pathForbidden` rather than take another.
    ///   - streams: sockets that carry data on the TCP path, 1 to 8.
    ///   - timeout: for connecting and shaking hands.
    public func connect(
        to address: SocketAddress, expecting expected: EngineID? = nil,
        paths: Set<TransferPath> = Set(TransferPath.allCases), streams: Int = 1,
        timeout: Duration = .seconds(5)
    ) throws(TransferError) -> TransferPeer {
        // C reads an empty mask as "the default".
        guard !paths.isEmpty else { throw .pathForbidden }
        var params = ct_connect_params()
        params.struct_size = UInt32(MemoryLayout<ct_connect_params>.size)
        params.allowed_paths = paths.reduce(0) { $0 | 1 << $1.cValue }
        params.port = address.port
        params.stream_count = UInt16(clamping: streams)
        if let expected {
            params.expects_id = 1
            params.expected_id = expected.cValue
        }
        params.timeout_ns = UInt64(clamping: timeout.nanoseconds)
        var peer: OpaquePointer?
        let status = address.host.withCString { host in
            params.host = host
            return ct_peer_connect(handle, &params, &peer)
        }
        try TransferError.check(status)
        guard let peer else { throw .outOfMemory }
        return TransferPeer(engine: self, handle: peer)
    }

    /// Asks for an early end of a transfer. Its completion still comes.
    public func cancel(_ id: TransferID) {
        ct_transfer_cancel(handle, id.value)
    }

    /// Hands every waiting event to `body`, on the calling thread, without waiting.
    public func drain(_ body: (TransferEvent) -> Void) {
        while true {
            let batch = polling.withLock { _ in poll() }
            batch.forEach(body)
            if batch.count < Self.batchSize { return }
        }
    }

    private static let batchSize = 64

    private func poll() -> [TransferEvent] {
        withUnsafeTemporaryAllocation(of: ct_event.self, capacity: Self.batchSize) { events in
            var count = 0
            ct_engine_poll(handle, events.baseAddress, events.count, &count)
            return events.prefix(count).map(TransferEvent.init)
        }
    }

    /// Counters of one path: transfers that this engine began.
    public func statistics(of path: TransferPath) -> PathStatistics {
        let stats = ct_engine_stats(handle)
        let counters =
            switch path {
            case .memfd: stats.paths.1
            case .tcp: stats.paths.2
            case .cma: stats.paths.3
            }
        return PathStatistics(
            transfers: counters.transfers, failedTransfers: counters.failed_transfers,
            byteCount: counters.transferred_bytes, failedBlocks: counters.failed_blocks)
    }
}
