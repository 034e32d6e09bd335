public import Core
import KVIndex

/// A block that an endpoint holds, as routers tell each other.
public struct SharedBlock: Hashable, Sendable {
    /// The engine's own hash, by which its events name the block.
    public var engineHash: UInt64
    /// The request key, by which lookups name it.
    public var key: UInt64
    /// Where the endpoint holds it.
    public var tier: Tier

    /// Makes one from its parts.
    public init(engineHash: UInt64, key: UInt64, tier: Tier) {
        self.engineHash = engineHash
        self.key = key
        self.tier = tier
    }

    init?(_ change: BlockChange) {
        guard case .stored(let engineHash, let key, let tier, _) = change else { return nil }
        self.init(engineHash: engineHash, key: key, tier: tier)
    }

    /// The bytes of an encoded block: engine hash and key, big-endian, and the tier.
    static let encodedByteCount = 17

    var encoded: InlineArray<17, UInt8> {
        var bytes = InlineArray<17, UInt8>(repeating: 0)
        for index in 0..<8 {
            bytes[index] = UInt8(truncatingIfNeeded: engineHash >> (56 - 8 * index))
            bytes[8 + index] = UInt8(truncatingIfNeeded: key >> (56 - 8 * index))
        }
        bytes[16] = tier.rawValue
        return bytes
    }

    /// Nil if the bytes are none that ``encoded`` makes.
    init?(encoded bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.encodedByteCount, let tier = Tier(rawValue: bytes[16]) else {
            return nil
        }
        engineHash = UInt64(bigEndian: bytes.loadUnaligned(as: UInt64.self))
        key = UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: 8, as: UInt64.self))
        self.tier = tier
    }
}

/// The index that a router answers from, as far as sharing it changes it. Called on the loop of who
/// shares it, and never from inside one of its calls.
public protocol SharedIndexReplica: AnyObject {
    /// Other routers say that the endpoint holds these blocks, which this replica did not know.
    func add(_ blocks: [SharedBlock], to endpoint: String)
    /// Takes back one store of each block.
    func remove(_ blocks: [SharedBlock], from endpoint: String)
}
