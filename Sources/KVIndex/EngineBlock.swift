import Core

/// What an engine hash of one endpoint stands for.
///
/// A block that completes several request keys has the last one here and the others in entries of
/// their own, so that all entries have one size.
struct EngineBlock: FlatTableValue {
    private static let tailBit: UInt16 = 1 << 15
    private static let partShape = UInt16.max
    /// The most request keys that one engine block may complete.
    static let maximumKeyCount = 1 << 12

    /// The last request key of the sequence up to the block's end; the model's root before the
    /// first.
    var key: UInt64
    /// Stores that no removal answered yet, by tier.
    var references = SIMD4<UInt8>(repeating: 0)
    private var endpointIndex: UInt16
    private var shape: UInt16

    static let vacant = EngineBlock(key: 0, endpointIndex: .max, shape: 0)

    private init(key: UInt64, endpointIndex: UInt16, shape: UInt16) {
        self.key = key
        self.endpointIndex = endpointIndex
        self.shape = shape
    }

    /// A block that completes `keyCount` keys, and has a tail if it ends inside an index block.
    init(key: UInt64, keyCount: Int, hasTail: Bool, endpoint: EndpointHandle) {
        self.init(
            key: key, endpointIndex: endpoint.index,
            shape: UInt16(keyCount) | (hasTail ? Self.tailBit : 0))
    }

    /// The entry of one of the other keys.
    static func part(key: UInt64, endpoint: EndpointHandle) -> EngineBlock {
        EngineBlock(key: key, endpointIndex: endpoint.index, shape: partShape)
    }

    var isVacant: Bool { endpointIndex == .max }
    var isPart: Bool { shape == Self.partShape }
    var keyCount: Int { Int(shape & ~Self.tailBit) }
    var hasTail: Bool { shape & Self.tailBit != 0 }
    var endpoint: EndpointHandle { EndpointHandle(index: endpointIndex) }
    /// Whether the endpoint holds the block no more; it is remembered for its children.
    var isRetired: Bool { references == SIMD4(repeating: 0) }

    /// Under what the entry of the `part`-th key is found.
    static func tag(ofPart part: Int, of tag: UInt64) -> UInt64 {
        // Weyl steps of the golden ratio, scattered: no hash of an engine is near.
        let step = tag &+ UInt64(part + 1) &* 0x9e37_79b9_7f4a_7c15
        return (step ^ step >> 29) &* 0xbf58_476d_1ce4_e5b9
    }
}
