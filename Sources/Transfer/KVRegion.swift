import CTransfer

/// A pool of equal blocks that peers may read and write once they are connected.
///
/// Released when the last reference goes and the last transfer that uses it is final. A region may
/// be passed between threads; who touches which block when is the owner's affair, as with any
/// memory, with one rule: a block named in a transfer belongs to the transfer until it is finished.
public final class KVRegion: Sendable {
    let engine: TransferEngine
    // Constants; the memory stays put for the life of the region.
    nonisolated(unsafe) let handle: OpaquePointer
    nonisolated(unsafe) private let base: UnsafeMutableRawPointer

    /// Bytes of one block.
    public let blockByteCount: Int
    /// How many blocks there are.
    public let blockCount: Int

    /// Allocates zeroed memory and publishes it to every peer.
    ///
    /// - Throws: `invalidArgument` for sizes that are not positive, `outOfMemory`, or `queueFull`
    ///   when the engine has 64 regions.
    public init(on engine: TransferEngine, blockCount: Int, blockByteCount: Int)
        throws(TransferError)
    {
        guard let blocks = UInt64(exactly: blockCount),
            let bytes = UInt64(exactly: blockByteCount)
        else { throw .invalidArgument }
        var pool: OpaquePointer?
        try TransferError.check(ct_pool_create(engine.handle, bytes, blocks, &pool))
        guard let pool, let memory = ct_pool_memory(pool) else { throw .outOfMemory }
        self.engine = engine
        self.handle = pool
        self.base = memory
        self.blockCount = blockCount
        self.blockByteCount = blockByteCount
    }

    /// Registers memory of the caller, such as a tensor of an engine, and publishes it to every
    /// peer. It stays mapped until `.regionGone`, which follows the release of the region.
    ///
    /// - Throws: `invalidArgument` for sizes that are not positive, `outOfMemory`, or `queueFull`
    ///   when the engine has 64 regions.
    public init(
        on engine: TransferEngine, over memory: UnsafeMutableRawBufferPointer, blockByteCount: Int
    ) throws(TransferError) {
        guard blockByteCount > 0, let base = memory.baseAddress else { throw .invalidArgument }
        var pool: OpaquePointer?
        try TransferError.check(
            ct_region_add(
                engine.handle, base, UInt64(memory.count), UInt64(blockByteCount), &pool))
        guard let pool else { throw .outOfMemory }
        self.engine = engine
        self.handle = pool
        self.base = base
        self.blockCount = memory.count / blockByteCount
        self.blockByteCount = blockByteCount
    }

    deinit {
        ct_pool_release(handle)
    }

    /// The bytes of a block. Valid while the region lives.
    public subscript(block: Int) -> UnsafeMutableRawBufferPointer {
        precondition((0..<blockCount).contains(block), "block \(block) of \(blockCount)")
        return UnsafeMutableRawBufferPointer(
            start: base + block * blockByteCount, count: blockByteCount)
    }

    /// How often blocks have been fenced. Give it to a peer along with the numbers of blocks.
    public var epoch: UInt64 { ct_pool_epoch(handle) }

    /// Takes blocks back that peers may still hold, before other bytes go into them.
    ///
    /// From here on a transfer that names an earlier epoch fails on them with `stale`, even if it
    /// has begun to copy: a peer that comes back late reads nothing wrong. Blocks that peers may
    /// write to are the owner's once ``settledEpoch`` has reached the result.
    ///
    /// - Returns: the epoch that begins.
    /// - Throws: `outOfRange`.
    public func fence(_ blocks: [UInt32]) throws(TransferError) -> UInt64 {
        var epoch: UInt64 = 0
        let status = blocks.withUnsafeBufferPointer { blocks in
            ct_pool_fence(handle, blocks.baseAddress, blocks.count, &epoch)
        }
        try TransferError.check(status)
        return epoch
    }

    /// The newest epoch of which it is certain that no peer writes any more to a block that was
    /// fenced in it or before.
    public var settledEpoch: UInt64 { ct_pool_settled(handle) }

    /// How peers name this region.
    public var remote: RemoteRegion { RemoteRegion(ct_pool_region(handle)) }
}

/// A region of another engine, of one generation: a copy of what its owner publishes.
public struct RemoteRegion: Hashable, Sendable {
    /// The number of the region in its engine; 0 is the first that was made.
    public var id: UInt32
    /// Differs for every region that the engine ever had.
    public var generation: UInt64
    /// The size of the whole region.
    public var byteCount: UInt64
    /// The size of a block.
    public var blockByteCount: UInt64

    init(_ region: ct_region) {
        id = region.id
        generation = region.generation
        byteCount = region.size_bytes
        blockByteCount = region.block_bytes
    }

    /// How many blocks there are.
    public var blockCount: Int { Int(byteCount / blockByteCount) }

    var cValue: ct_region {
        ct_region(
            id: id, generation: generation, size_bytes: byteCount, block_bytes: blockByteCount)
    }
}
