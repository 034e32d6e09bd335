package import Core

/// Which blocks Redis was asked for, and what was taken over from its answers. Loop-bound.
///
/// Bounded: where there is no room for another block, one goes that was not asked for lately (CLOCK),
/// and what was taken over of it is to be given back.
package struct ImportedBlocks {
    /// A tier of an endpoint.
    package struct Place: Hashable {
        private let bits: UInt32

        /// `endpoint` is a number below 2^30 by which the owner knows it.
        package init(endpoint: UInt32, tier: Tier) {
            bits = endpoint << 2 | UInt32(tier.rawValue)
        }

        /// The number.
        package var endpoint: UInt32 { bits >> 2 }
        /// The tier.
        package var tier: Tier { Tier(rawValue: UInt8(bits & 3)) ?? .remote }
    }

    /// A block in a place.
    package struct Import: Hashable {
        /// Its request key.
        package var key: UInt64
        /// Who holds it.
        package var place: Place
    }

    /// What to do about a block that a prompt needs.
    package enum Answer: Equatable {
        /// Redis is to be asked.
        case due
        /// It was asked just now.
        case known(isListed: Bool)
    }

    /// How an answer of Redis differs from what was taken over.
    package struct Difference: Equatable {
        /// To be taken over.
        package var new: [Place] = []
        /// Taken over before.
        package var kept: [Place] = []
        /// To be given back.
        package var gone: [Place] = []
    }

    private struct Slot {
        var key: UInt64
        var askedAt: UInt64
        /// Whether Redis names an endpoint of the pool, as far as is known.
        var isListed = true
        var wasUsed = true
        var places: [Place] = []
    }

    /// How many blocks are taken over.
    private(set) package var count = 0
    private let capacity: Int
    private let refreshNanoseconds: UInt64
    private var slots: [Slot] = []
    private var numbers: [UInt64: Int] = [:]
    private var hand = 0
    /// Blocks by endpoint.
    private var counts: [UInt32: Int] = [:]
    private var evicted: [Import] = []

    /// An empty table.
    ///
    /// - Parameters:
    ///   - capacity: blocks at most.
    ///   - refreshInterval: how long an answer counts.
    package init(capacity: Int, refreshInterval: Duration) {
        self.capacity = max(1, capacity)
        refreshNanoseconds = UInt64(clamping: refreshInterval.nanoseconds)
    }

    /// A prompt needs the block. Who is told that it is due asks Redis.
    package mutating func ask(_ key: UInt64, at now: MonotonicTime) -> Answer {
        guard let number = numbers[key] else {
            insert(Slot(key: key, askedAt: now.nanoseconds))
            return .due
        }
        slots[number].wasUsed = true
        if now.nanoseconds &- slots[number].askedAt < refreshNanoseconds {
            return .known(isListed: slots[number].isListed)
        }
        slots[number].askedAt = now.nanoseconds
        return .due
    }

    /// Whether Redis named an endpoint of the pool when it was asked for the block last.
    package func isListed(_ key: UInt64) -> Bool {
        numbers[key].map { slots[$0].isListed } ?? false
    }

    /// Takes Redis' answer.
    ///
    /// - Parameters:
    ///   - places: those that count.
    ///   - isListed: whether it names any endpoint of the pool.
    ///   - mayTakeBack: whether those missing are gone.
    package mutating func answered(
        _ key: UInt64, places: Set<Place>, isListed: Bool, mayTakeBack: Bool
    ) -> Difference {
        var difference = Difference()
        // Forgotten since it was asked for: it cannot be given back later.
        guard let number = numbers[key] else { return difference }
        slots[number].isListed = isListed
        let before = slots[number].places
        for place in places {
            if before.contains(place) {
                difference.kept.append(place)
            } else {
                difference.new.append(place)
            }
        }
        let missing = before.filter { counts[$0.endpoint] != nil && !places.contains($0) }
        if mayTakeBack { difference.gone = missing }
        slots[number].places = Array(places) + (mayTakeBack ? [] : missing)
        for place in difference.new { add(1, to: place.endpoint) }
        for place in difference.gone { add(-1, to: place.endpoint) }
        return difference
    }

    /// The block is not to be given back any more. Whether it was taken over.
    package mutating func remove(_ block: Import) -> Bool {
        guard counts[block.place.endpoint] ?? 0 > 0, let number = numbers[block.key],
            let index = slots[number].places.firstIndex(of: block.place)
        else { return false }
        slots[number].places.remove(at: index)
        add(-1, to: block.place.endpoint)
        return true
    }

    /// An endpoint joins under a number that was never used.
    package mutating func join(_ endpoint: UInt32) { counts[endpoint] = 0 }

    /// An endpoint leaves: what was taken over of it is gone.
    package mutating func leave(_ endpoint: UInt32) {
        count -= counts.removeValue(forKey: endpoint) ?? 0
    }

    /// What was taken over of an endpoint. Walks the whole table.
    package func blocks(of endpoint: UInt32) -> [(key: UInt64, tier: Tier)] {
        guard counts[endpoint] ?? 0 > 0 else { return [] }
        return slots.flatMap { slot in
            slot.places.filter { $0.endpoint == endpoint }.map { (slot.key, $0.tier) }
        }
    }

    /// What is to be given back because there was no room for it.
    package mutating func takeEvicted() -> [Import] {
        defer { evicted = [] }
        return evicted
    }

    private mutating func add(_ difference: Int, to endpoint: UInt32) {
        guard let before = counts[endpoint] else { return }
        counts[endpoint] = before + difference
        count += difference
    }

    private mutating func insert(_ slot: Slot) {
        guard slots.count == capacity else {
            numbers[slot.key] = slots.count
            slots.append(slot)
            return
        }
        while slots[hand].wasUsed {
            slots[hand].wasUsed = false
            hand = (hand + 1) % capacity
        }
        for place in slots[hand].places where counts[place.endpoint] != nil {
            evicted.append(Import(key: slots[hand].key, place: place))
            add(-1, to: place.endpoint)
        }
        numbers[slots[hand].key] = nil
        numbers[slot.key] = hand
        slots[hand] = slot
        hand = (hand + 1) % capacity
    }
}
