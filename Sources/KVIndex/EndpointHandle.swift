/// An endpoint by the small integer that the index knows it by.
///
/// A handle is valid until its endpoint is removed from the index; its number is given to another
/// endpoint as late as possible, so that a match that is still in use is not mistaken.
public struct EndpointHandle: Hashable, Sendable {
    /// Below ``KVIndex/maximumEndpointCount``.
    package let index: UInt16
}

/// A data-parallel rank of an endpoint, which holds blocks of its own.
public struct EndpointRank: Equatable, Sendable {
    /// From 0 on.
    public var rank: Int
    /// The index's handle.
    public var handle: EndpointHandle
}

/// What the index has seen of one endpoint's events.
public struct EndpointCounters: Equatable, Sendable {
    /// Blocks of the endpoint that the index holds now, in any tier.
    public var blockCount = 0
    /// Blocks stored, duplicates included.
    public var storedCount = 0
    /// Blocks removed.
    public var removedCount = 0
    /// Times that all blocks were dropped, by the engine or on its restart.
    public var clearedCount = 0
    /// Stores that cannot be indexed: without tokens for a block that is not known, of an unnamed
    /// adapter, of a kind of attention or a group that is not indexed, or with token and block
    /// counts that do not agree.
    public var storesSkippedCount = 0
    /// Removals of blocks that the index does not know.
    public var removalsSkippedCount = 0
    /// Stores that wait for their parent now.
    public var parkedCount = 0
    /// Stores that waited for their parent in vain and were dropped.
    public var parkedDroppedCount = 0

    /// Nothing yet.
    public init() {}
}
