import CTransfer
import Core

/// A connection to another engine, over which this side reads and writes its regions.
///
/// The connection closes when the last reference goes: transfers in flight then end as cancelled.
public final class TransferPeer: Sendable {
    private let engine: TransferEngine
    // A constant; the C peer is safe from any thread.
    nonisolated(unsafe) private let handle: OpaquePointer

    /// The name that events carry.
    public let id: PeerID

    init(engine: TransferEngine, handle: OpaquePointer) {
        self.engine = engine
        self.handle = handle
        id = PeerID(value: ct_peer_id(handle))
    }

    deinit {
        ct_peer_release(handle)
    }

    /// The path in use; nil until the peer is up.
    public var path: TransferPath? { TransferPath(ct_peer_describe(handle).path) }

    /// The engine that answered; nil until the peer is up.
    public var engineID: EngineID? {
        let info = ct_peer_describe(handle)
        return info.path == CT_PATH_NONE ? nil : EngineID(info.engine_id)
    }

    /// The regions that the peer publishes now.
    public var regions: [RemoteRegion] {
        let capacity = Int(CT_REGIONS_MAX)
        return withUnsafeTemporaryAllocation(of: ct_region.self, capacity: capacity) { regions in
            var count = 0
            ct_peer_regions(handle, regions.baseAddress, &count)
            return regions.prefix(count).map(RemoteRegion.init)
        }
    }

    /// Reads remote blocks into local ones, pair by pair. `.finished` with the returned id follows.
    ///
    /// - Parameters:
    ///   - remoteBlocks: block numbers in `remote`.
    ///   - epoch: of the remote region when its owner named the blocks; 0 for blocks that were never
    ///     fenced.
    ///   - localBlocks: as many block numbers in `local`. They belong to the transfer until it is
    ///     finished.
    ///   - timeout: after which it ends with `deadlineExceeded`.
    ///   - notification: at most 256 bytes that the peer receives once, after every block arrived;
    ///     empty for none.
    /// - Throws: what is wrong with the parameters, or `queueFull`. No completion follows then.
    public func read(
        _ remoteBlocks: [UInt32], of remote: RemoteRegion, epoch: UInt64 = 0,
        into localBlocks: [UInt32], of local: KVRegion,
        timeout: Duration = .seconds(30), notification: [UInt8] = []
    ) throws(TransferError) -> TransferID {
        try submit(
            ct_operation(CT_READ), localBlocks, local, remoteBlocks, remote, epoch, timeout,
            notification)
    }

    /// Writes local blocks over remote ones, pair by pair. Parameters and errors as for `read`.
    public func write(
        _ localBlocks: [UInt32], of local: KVRegion,
        over remoteBlocks: [UInt32], of remote: RemoteRegion, epoch: UInt64 = 0,
        timeout: Duration = .seconds(30), notification: [UInt8] = []
    ) throws(TransferError) -> TransferID {
        try submit(
            ct_operation(CT_WRITE), localBlocks, local, remoteBlocks, remote, epoch, timeout,
            notification)
    }

    /// Sends a notification alone. `.finished` follows when the peer has it.
    public func notify(
        _ notification: [UInt8], timeout: Duration = .seconds(30)
    ) throws(TransferError) -> TransferID {
        try submit(ct_operation(CT_WRITE), [], nil, [], nil, 0, timeout, notification)
    }

    private func submit(
        _ operation: ct_operation, _ localBlocks: [UInt32], _ local: KVRegion?,
        _ remoteBlocks: [UInt32], _ remote: RemoteRegion?, _ epoch: UInt64,
        _ timeout: Duration, _ notification: [UInt8]
    ) throws(TransferError) -> TransferID {
        guard localBlocks.count == remoteBlocks.count,
            let count = UInt32(exactly: localBlocks.count)
        else { throw .invalidArgument }
        var params = ct_transfer_params()
        params.struct_size = UInt32(MemoryLayout<ct_transfer_params>.size)
        params.operation = operation
        params.peer = handle
        params.pool = local?.handle
        params.region = remote?.cValue ?? ct_region()
        params.epoch = epoch
        params.block_count = count
        params.notification_bytes = notification.count
        params.timeout_ns = UInt64(clamping: timeout.nanoseconds)
        var id: UInt64 = 0
        let status = localBlocks.withUnsafeBufferPointer { localIDs in
            remoteBlocks.withUnsafeBufferPointer { remoteIDs in
                notification.withUnsafeBufferPointer { bytes in
                    params.local.ids = localIDs.baseAddress
                    params.remote.ids = remoteIDs.baseAddress
                    params.notification = UnsafeRawPointer(bytes.baseAddress)
                    return ct_transfer_submit(engine.handle, &params, &id)
                }
            }
        }
        try TransferError.check(status)
        return TransferID(value: id)
    }
}
