public import Core

/// What an event changed, for those who share the index.
///
/// Only blocks that complete one request key are told, of the group that stands for the endpoint.
public enum BlockChange: Equatable, Sendable {
    /// A store of a block that the engine calls `engineHash`, and the KV-cache group that the event
    /// named.
    case stored(engineHash: UInt64, key: UInt64, tier: Tier, group: Int? = nil)
    /// A store was taken back.
    case removed(engineHash: UInt64, tier: Tier)
    /// All blocks are gone.
    case cleared
}
