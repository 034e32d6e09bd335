/// A value of a ``FlatTable``. One bit pattern of it stands for an empty slot.
protocol FlatTableValue: BitwiseCopyable, Sendable {
    static var vacant: Self { get }
    var isVacant: Bool { get }
}

/// A hash table from 64-bit keys to small values, whose memory is known to the byte.
///
/// Open addressing with linear probing and removal by backward shift, in segments that grow on
/// their own, by a quarter each: no single growth moves more than a 64th of the table, and at
/// least 60 % of the slots are in use once it has grown large. Keys are hashes already, but of
/// texts that a client may choose: they are mixed with a random multiplier.
///
/// Unchecked: the table is the only owner of its memory, cannot be copied, and gives out pointers
/// into it only to who holds the table.
struct FlatTable<Value: FlatTableValue>: ~Copyable, @unchecked Sendable {
    struct Slot: BitwiseCopyable {
        var key: UInt64
        var value: Value
    }

    private struct Segment {
        var slots: UnsafeMutablePointer<Slot>
        var capacity: Int
        var count = 0
        /// Where eviction looks next.
        var hand = 0

        /// The number of entries at which the segment must grow.
        var limit: Int { capacity / 5 * 4 }
    }

    private static var segmentBits: UInt64 { 6 }
    private static var minimumCapacity: Int { 10 }
    static var segmentCount: Int { 1 << Int(segmentBits) }

    private let segments: UnsafeMutablePointer<Segment>
    private let multiplier = UInt64.random(in: 0 ... .max) | 1
    private(set) var count = 0
    private(set) var byteCount: Int

    init() {
        segments = .allocate(capacity: Self.segmentCount)
        for index in 0..<Self.segmentCount {
            segments.advanced(by: index).initialize(
                to: Segment(
                    slots: Self.allocate(Self.minimumCapacity), capacity: Self.minimumCapacity))
        }
        byteCount =
            Self.segmentCount
            * (Self.byteCount(of: Self.minimumCapacity) + MemoryLayout<Segment>.stride)
    }

    deinit {
        for index in 0..<Self.segmentCount { segments[index].slots.deallocate() }
        segments.deallocate()
    }

    private static func allocate(_ capacity: Int) -> UnsafeMutablePointer<Slot> {
        let slots = UnsafeMutablePointer<Slot>.allocate(capacity: capacity)
        slots.initialize(repeating: Slot(key: 0, value: .vacant), count: capacity)
        return slots
    }

    private static func byteCount(of capacity: Int) -> Int {
        capacity * MemoryLayout<Slot>.stride
    }

    /// The top bits of the mixed key choose the segment, the rest the slot.
    private func place(_ key: UInt64) -> (segment: Int, rest: UInt64) {
        let mixed = key &* multiplier
        return (Int(mixed >> (64 - Self.segmentBits)), mixed << Self.segmentBits)
    }

    private static func home(_ rest: UInt64, _ capacity: Int) -> Int {
        Int(rest.multipliedFullWidth(by: UInt64(capacity)).high)
    }

    // MARK: - Entries

    /// The value of a key, in place; valid until the next insertion, removal or growth.
    func find(_ key: UInt64) -> UnsafeMutablePointer<Value>? {
        let (index, rest) = place(key)
        let segment = segments[index]
        var slot = Self.home(rest, segment.capacity)
        while !segment.slots[slot].value.isVacant {
            if segment.slots[slot].key == key { return Self.value(of: segment.slots + slot) }
            slot += 1
            if slot == segment.capacity { slot = 0 }
        }
        return nil
    }

    private static func value(
        of slot: UnsafeMutablePointer<Slot>
    ) -> UnsafeMutablePointer<Value> {
        let offset = MemoryLayout<Slot>.offset(of: \.value) ?? 0
        return (UnsafeMutableRawPointer(slot) + offset).assumingMemoryBound(to: Value.self)
    }

    /// Adds a key that is not there. ``growth(for:)`` must have been nil or followed.
    @discardableResult
    mutating func insert(_ key: UInt64, _ value: Value) -> UnsafeMutablePointer<Value> {
        let (index, rest) = place(key)
        let segment = segments[index]
        precondition(segment.count < segment.limit, "an insertion into a full table")
        var slot = Self.home(rest, segment.capacity)
        while !segment.slots[slot].value.isVacant {
            slot += 1
            if slot == segment.capacity { slot = 0 }
        }
        segment.slots[slot] = Slot(key: key, value: value)
        segments[index].count += 1
        count += 1
        return Self.value(of: segment.slots + slot)
    }

    /// Removes a key that is there. Later entries of its segment may move to lower slots.
    mutating func remove(_ key: UInt64) {
        let (index, rest) = place(key)
        let segment = segments[index]
        var hole = Self.home(rest, segment.capacity)
        while segment.slots[hole].key != key || segment.slots[hole].value.isVacant {
            hole += 1
            if hole == segment.capacity { hole = 0 }
        }
        var slot = hole
        while true {
            slot += 1
            if slot == segment.capacity { slot = 0 }
            if segment.slots[slot].value.isVacant { break }
            let home = Self.home(place(segment.slots[slot].key).rest, segment.capacity)
            // The entry may move to the hole unless its home lies behind the hole.
            let isBehind =
                hole <= slot ? (hole < home && home <= slot) : (hole < home || home <= slot)
            if !isBehind {
                segment.slots[hole] = segment.slots[slot]
                hole = slot
            }
        }
        segment.slots[hole].value = .vacant
        segments[index].count -= 1
        count -= 1
    }

    // MARK: - Growth

    /// The bytes that must be had for a moment to add `key`, the old slots being freed after;
    /// nil if there is room.
    func growth(for key: UInt64) -> Int? {
        let segment = segments[place(key).segment]
        guard segment.count >= segment.limit else { return nil }
        return Self.byteCount(of: Self.grown(segment.capacity))
    }

    /// Makes room for `key`.
    mutating func grow(for key: UInt64) {
        let index = place(key).segment
        let old = segments[index]
        let capacity = Self.grown(old.capacity)
        let slots = Self.allocate(capacity)
        for position in 0..<old.capacity where !old.slots[position].value.isVacant {
            let entry = old.slots[position]
            var slot = Self.home(place(entry.key).rest, capacity)
            while !slots[slot].value.isVacant {
                slot += 1
                if slot == capacity { slot = 0 }
            }
            slots[slot] = entry
        }
        old.slots.deallocate()
        segments[index].slots = slots
        segments[index].capacity = capacity
        segments[index].hand = 0
        byteCount += Self.byteCount(of: capacity) - Self.byteCount(of: old.capacity)
    }

    /// A multiple of 5, so that the limit is exact.
    private static func grown(_ capacity: Int) -> Int { (capacity + capacity / 4 + 4) / 5 * 5 }

    // MARK: - Walks

    /// The next entry under the hand that goes round the segment of `key`; nil if it is empty.
    mutating func nextEntry(near key: UInt64) -> (key: UInt64, value: Value)? {
        let index = place(key).segment
        let segment = segments[index]
        guard segment.count > 0 else { return nil }
        var slot = segment.hand
        repeat {
            slot = slot + 1 < segment.capacity ? slot + 1 : 0
        } while segment.slots[slot].value.isVacant
        segments[index].hand = slot
        return (segment.slots[slot].key, segment.slots[slot].value)
    }

    /// A place in a walk over all slots that may be left and taken up again.
    struct Cursor {
        var segment = 0
        var slot = 0
    }

    /// The next entry from `cursor` on, which stays on it: a removal moves the following entries
    /// under it. nil after the last slot. Growth between calls may hide or repeat entries of the
    /// segment that grew.
    func entry(at cursor: inout Cursor) -> (key: UInt64, value: Value)? {
        while cursor.segment < Self.segmentCount {
            let segment = segments[cursor.segment]
            while cursor.slot < segment.capacity {
                let slot = segment.slots[cursor.slot]
                if !slot.value.isVacant { return (slot.key, slot.value) }
                cursor.slot += 1
            }
            cursor = Cursor(segment: cursor.segment + 1)
        }
        return nil
    }
}
