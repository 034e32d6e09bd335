import Core

/// An endpoint that holds a block, and how: its index in the upper 13 bits, the kind below.
struct Resident: BitwiseCopyable, Hashable, Sendable {
    /// A tier by its raw value, or `expected`.
    typealias Kind = UInt16

    /// The endpoint is about to hold the block: a request was sent there.
    static let expected: Kind = 4
    static let kindCount = 5
    static let none = Resident(rawValue: .max)

    let rawValue: UInt16

    init(rawValue: UInt16) { self.rawValue = rawValue }

    init(_ endpoint: EndpointHandle, _ tier: Tier) {
        rawValue = endpoint.index << 3 | UInt16(tier.rawValue)
    }

    init(expectedAt endpoint: EndpointHandle) {
        rawValue = endpoint.index << 3 | Self.expected
    }

    var endpointIndex: Int { Int(rawValue >> 3) }
    var kind: Kind { rawValue & 7 }

    /// The tier's raw value, as which a lookup counts the block: expected blocks count as computed.
    var countedTier: Int { kind == Self.expected ? 0 : Int(kind) }
}

/// Who holds a block: a few residents in place, or a set elsewhere.
struct Block: FlatTableValue {
    static let inlineCount = 6

    private static let vacantBit: UInt32 = 1 << 31
    private static let setBit: UInt32 = 1 << 30
    private static let useShift: UInt32 = 28
    private static let useBits: UInt32 = 3 << useShift
    /// What a lookup sets ``use`` to.
    static let recentUse: UInt32 = 3

    /// Those that are, first; then `.none`.
    var residents = InlineArray<6, Resident>(repeating: .none)
    private var bits: UInt32 = 0

    static let vacant = {
        var block = Block()
        block.bits = vacantBit
        return block
    }()

    var isVacant: Bool { bits & Self.vacantBit != 0 }

    /// How lately a lookup met the block: each time that eviction passes it over counts one down.
    var use: UInt32 {
        get { (bits & Self.useBits) >> Self.useShift }
        set { bits = bits & ~Self.useBits | newValue << Self.useShift }
    }

    /// The index of the set that holds the residents in place of ``residents``.
    var set: Int? {
        get { bits & Self.setBit != 0 ? Int(bits & (1 << Self.useShift - 1)) : nil }
        set {
            bits &= Self.useBits
            if let newValue { bits |= Self.setBit | UInt32(newValue) }
        }
    }

    /// The number of residents in place.
    var count: Int {
        var count = 0
        while count < Self.inlineCount, residents[count] != .none { count += 1 }
        return count
    }

    func contains(_ resident: Resident) -> Bool {
        for index in 0..<Self.inlineCount where residents[index] == resident { return true }
        return false
    }
}
