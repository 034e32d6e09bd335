/// The block keys that one endpoint is likely to hold, the least recently used dropped first.
///
/// Chains of keys are used from their end to their start, so that a key is always dropped after
/// those that follow it: what is held of a chain is its beginning.
package struct PrefixLRU {
    private static let none = UInt32.max

    /// The most keys to hold.
    package private(set) var capacity: Int
    /// The keys held.
    package private(set) var count = 0

    // One place per key held; places are used again.
    private var keys: [UInt64] = []
    private var newer: [UInt32] = []
    private var older: [UInt32] = []
    private var newest = none
    private var oldest = none
    private var free = none
    /// Places by key, with linear probing; at most half full.
    private var table: [UInt32]
    private var mask: Int { table.count - 1 }

    /// Makes an empty one.
    package init(capacity: Int) {
        self.capacity = max(1, capacity)
        table = Array(repeating: Self.none, count: 64)
    }

    /// Changes how many keys are held; drops what is too much.
    package mutating func resize(to capacity: Int) {
        self.capacity = max(1, capacity)
        while count > self.capacity { dropOldest() }
    }

    /// Whether a key is held.
    package func contains(_ key: UInt64) -> Bool { slot(of: key).isFound }

    /// How many keys at the start of a chain are held.
    package func matchedCount(_ chain: [UInt64]) -> Int {
        guard let first = chain.first, contains(first) else { return 0 }
        var held = 0
        var missing = chain.count
        while missing - held > 1 {
            let middle = held + (missing - held) / 2
            if contains(chain[middle]) { held = middle } else { missing = middle }
        }
        return held + 1
    }

    /// Takes the keys of a chain in, as the most recently used.
    package mutating func use(_ chain: [UInt64]) {
        for key in chain.prefix(capacity).reversed() { use(key) }
    }

    private mutating func use(_ key: UInt64) {
        let found = slot(of: key)
        if found.isFound {
            let place = table[found.index]
            unlink(place)
            link(place)
            return
        }
        if count == capacity { dropOldest() }
        if 2 * (count + 1) > table.count { grow() }
        table[slot(of: key).index] = newPlace(key)
        count += 1
    }

    private mutating func newPlace(_ key: UInt64) -> UInt32 {
        let place: UInt32
        if free != Self.none {
            place = free
            free = older[Int(place)]
            keys[Int(place)] = key
        } else {
            place = UInt32(keys.count)
            keys.append(key)
            newer.append(Self.none)
            older.append(Self.none)
        }
        link(place)
        return place
    }

    private mutating func link(_ place: UInt32) {
        newer[Int(place)] = Self.none
        older[Int(place)] = newest
        if newest != Self.none { newer[Int(newest)] = place } else { oldest = place }
        newest = place
    }

    private mutating func unlink(_ place: UInt32) {
        let (before, after) = (newer[Int(place)], older[Int(place)])
        if before != Self.none { older[Int(before)] = after } else { newest = after }
        if after != Self.none { newer[Int(after)] = before } else { oldest = before }
    }

    private mutating func dropOldest() {
        let place = oldest
        remove(at: slot(of: keys[Int(place)]).index)
        unlink(place)
        older[Int(place)] = free
        free = place
        count -= 1
    }

    /// Empties a slot of the table and moves up what was pushed behind it.
    private mutating func remove(at slot: Int) {
        var hole = slot
        var next = (hole + 1) & mask
        while table[next] != Self.none {
            let home = Self.home(keys[Int(table[next])], mask)
            if (next &- home) & mask >= (next &- hole) & mask {
                table[hole] = table[next]
                hole = next
            }
            next = (next + 1) & mask
        }
        table[hole] = Self.none
    }

    private mutating func grow() {
        let places = table.filter { $0 != Self.none }
        table = Array(repeating: Self.none, count: 2 * table.count)
        for place in places { table[slot(of: keys[Int(place)]).index] = place }
    }

    private func slot(of key: UInt64) -> (index: Int, isFound: Bool) {
        var index = Self.home(key, mask)
        while table[index] != Self.none {
            if keys[Int(table[index])] == key { return (index, true) }
            index = (index + 1) & mask
        }
        return (index, false)
    }

    private static func home(_ key: UInt64, _ mask: Int) -> Int {
        Int(truncatingIfNeeded: key) & mask
    }
}
