/// Bitsets of the endpoints that hold a block, one per kind of residence, for blocks that many
/// hold. All sets have the same width, which grows with the number of endpoints.
///
/// Unchecked: the sets are the only owner of their memory, cannot be copied, and give out pointers
/// into it only to who holds them.
struct ResidentSets: ~Copyable, @unchecked Sendable {
    /// Words of one bitset.
    private(set) var width = 1
    private(set) var byteCount = 0

    private var words: UnsafeMutablePointer<UInt64>?
    private var capacity = 0
    private var used = 0
    /// The first free set; each free set names the next in its first word.
    private var free: Int?

    /// A set is its count of residents, then the bitsets.
    private static func stride(_ width: Int) -> Int { 1 + Resident.kindCount * width }

    init() {}

    deinit { words?.deallocate() }

    private func words(of set: Int) -> UnsafeMutablePointer<UInt64> {
        guard let words else { preconditionFailure("there are no sets") }
        return words + set * Self.stride(width)
    }

    /// The bitset of one kind, `width` words.
    func bits(of set: Int, _ kind: Resident.Kind) -> UnsafeMutablePointer<UInt64> {
        words(of: set) + 1 + Int(kind) * width
    }

    func contains(_ resident: Resident, in set: Int) -> Bool {
        let index = resident.endpointIndex
        guard index < width * 64 else { return false }
        return bits(of: set, resident.kind)[index >> 6] & (1 << UInt64(index & 63)) != 0
    }

    /// Adds a resident that is not there.
    mutating func insert(_ resident: Resident, in set: Int) {
        let index = resident.endpointIndex
        bits(of: set, resident.kind)[index >> 6] |= 1 << UInt64(index & 63)
        words(of: set)[0] += 1
    }

    /// Removes a resident that is there.
    mutating func remove(_ resident: Resident, from set: Int) {
        let index = resident.endpointIndex
        bits(of: set, resident.kind)[index >> 6] &= ~(1 << UInt64(index & 63))
        words(of: set)[0] -= 1
    }

    func count(of set: Int) -> Int { Int(words(of: set)[0]) }

    func forEach(in set: Int, _ body: (Resident) -> Void) {
        for kind in 0..<Resident.Kind(Resident.kindCount) {
            let bits = bits(of: set, kind)
            for word in 0..<width {
                forEachBit(of: bits[word], word: word) {
                    body(Resident(rawValue: UInt16($0) << 3 | kind))
                }
            }
        }
    }

    // MARK: - Memory

    /// The bytes that must be had for a moment to make one more set; nil if there is room.
    var growth: Int? {
        guard free == nil, used == capacity else { return nil }
        return Self.byteCount(of: grownCapacity, width)
    }

    private var grownCapacity: Int { capacity + max(64, capacity / 4) }

    private static func byteCount(of capacity: Int, _ width: Int) -> Int {
        capacity * stride(width) * MemoryLayout<UInt64>.stride
    }

    /// An empty set.
    mutating func allocate() -> Int {
        let set: Int
        if let first = free {
            let next = words(of: first)[0]
            free = next == UInt64.max ? nil : Int(next)
            set = first
        } else {
            if used == capacity { relocate(capacity: grownCapacity, width: width) }
            set = used
            used += 1
        }
        words(of: set).update(repeating: 0, count: Self.stride(width))
        return set
    }

    mutating func deallocate(_ set: Int) {
        words(of: set)[0] = free.map(UInt64.init) ?? .max
        free = set
    }

    /// Makes the sets wide enough for an endpoint of this index.
    mutating func widen(for endpointIndex: Int) {
        var needed = width
        while endpointIndex >= needed * 64 { needed *= 2 }
        if needed > width { relocate(capacity: capacity, width: needed) }
    }

    private mutating func relocate(capacity: Int, width: Int) {
        let stride = Self.stride(width)
        let new = UnsafeMutablePointer<UInt64>.allocate(capacity: max(capacity * stride, 1))
        for set in 0..<used {
            let from = words(of: set)
            let to = new + set * stride
            to.initialize(repeating: 0, count: stride)
            to[0] = from[0]
            for kind in 0..<Resident.kindCount {
                (to + 1 + kind * width).update(
                    from: from + 1 + kind * self.width, count: self.width)
            }
        }
        words?.deallocate()
        words = new
        self.capacity = capacity
        self.width = width
        byteCount = Self.byteCount(of: capacity, width)
    }
}

/// Calls `body` with the index of each bit of the `word`-th word of a bitset.
func forEachBit(of bits: UInt64, word: Int, _ body: (Int) -> Void) {
    var rest = bits
    while rest != 0 {
        body(word << 6 | rest.trailingZeroBitCount)
        rest &= rest - 1
    }
}
