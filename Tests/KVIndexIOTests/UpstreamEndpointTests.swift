import Core
import KVIndexIO
import Testing

/// What Redis is told, as a machine without Redis, against a model of Redis that loses commands.
@Suite struct UpstreamEndpointTests {
    /// What Redis has.
    private struct Shelf {
        /// Fields by request key.
        var blocks: [UInt64: Set<Int>] = [:]
        /// Request keys by engine hash.
        var hashes: [UInt64: Set<UInt64>] = [:]
    }

    private func apply(_ work: UpstreamEndpoint.Work, to shelf: inout Shelf) {
        for block in work.stores {
            if let hash = block.hash { shelf.hashes[hash, default: []].insert(block.key) }
            for field in 0..<8 where block.fields >> field & 1 != 0 {
                shelf.blocks[block.key, default: []].insert(field)
            }
        }
        for block in work.removals {
            guard let key = block.key else { continue }
            if let field = block.field { shelf.blocks[key]?.remove(field) }
            if shelf.blocks[key]?.isEmpty == true { shelf.blocks[key] = nil }
            guard shelf.blocks[key] == nil, let hash = block.hash else { continue }
            if shelf.hashes[hash]?.allSatisfy({ shelf.blocks[$0] == nil }) == true {
                shelf.hashes[hash] = nil
            }
        }
    }

    private func drain(_ endpoint: inout UpstreamEndpoint, to shelf: inout Shelf) {
        while endpoint.waitingCount > 0 {
            let work = endpoint.takeWork(limit: 3)
            apply(work, to: &shelf)
            endpoint.finish(work)
        }
    }

    @Test func aChangeThatIsTakenBackIsNotTold() {
        var endpoint = UpstreamEndpoint()
        endpoint.stored(1, key: 10, in: .gpu, group: nil)
        endpoint.removed(1, from: .gpu)
        let work = endpoint.takeWork(limit: 10)
        #expect(work.isEmpty)
        endpoint.finish(work)
        #expect(endpoint.waitingCount == 0)
        #expect(endpoint.word(on: 10, in: .gpu) == .unknown)
    }

    @Test func aBlockUnderTwoHashesStaysUntilBothAreGone() {
        var endpoint = UpstreamEndpoint()
        var shelf = Shelf()
        endpoint.stored(1, key: 10, in: .gpu, group: nil)
        endpoint.stored(2, key: 10, in: .gpu, group: nil)
        drain(&endpoint, to: &shelf)
        endpoint.removed(1, from: .gpu)
        drain(&endpoint, to: &shelf)
        #expect(shelf.blocks == [10: [0]])
        endpoint.stored(3, key: 10, in: .gpu, group: nil)
        endpoint.removed(3, from: .gpu)
        drain(&endpoint, to: &shelf)
        #expect(shelf.blocks == [10: [0]])
        endpoint.removed(2, from: .gpu)
        #expect(endpoint.word(on: 10, in: .gpu) == .gone)
        drain(&endpoint, to: &shelf)
        #expect(shelf.blocks == [:])
    }

    @Test func aHashThatIsGivenToOtherTokensLeavesNothing() {
        var endpoint = UpstreamEndpoint()
        var shelf = Shelf()
        endpoint.stored(1, key: 10, in: .gpu, group: nil)
        drain(&endpoint, to: &shelf)
        for key in 11...5000 as ClosedRange<UInt64> {
            endpoint.stored(1, key: key, in: .gpu, group: nil)
        }
        // What never came to Redis does not wait.
        #expect(endpoint.waitingCount == 2)
        drain(&endpoint, to: &shelf)
        #expect(shelf.blocks == [5000: [0]])
    }

    @Test func removalsOfUnknownBlocksAreResolvedByRedisUnlessAllIsKnown() {
        var endpoint = UpstreamEndpoint()
        endpoint.removed(1, from: .cpu)
        endpoint.removed(2, from: .cpu)
        // This one is known before Redis is told.
        endpoint.stored(2, key: 20, in: .cpu, group: nil)
        let work = endpoint.takeWork(limit: 10)
        #expect(work.removals.map(\.hash) == [1, 1])
        #expect(work.removals.map(\.key) == [nil, nil])
        #expect(work.removals.map(\.field) == [2, 3])
        #expect(work.stores.map(\.hash) == [2])
        #expect(work.stores.map(\.fields) == [1 << 2])
        endpoint.finish(work)
        endpoint.cleared()
        endpoint.finish(endpoint.takeWork(limit: 10))
        endpoint.removed(3, from: .cpu)
        #expect(endpoint.waitingCount == 0)
    }

    @Test(arguments: [1, 2, 12_034_861_012_459_471_526, UInt64.random(in: 0 ... .max)])
    func whateverIsLostRedisAgreesInTheEnd(seed: UInt64) {
        print("seed \(seed)")
        var state = seed
        func random(_ bound: Int) -> Int {
            // SplitMix64 (public domain, Vigna).
            state &+= 0x9e37_79b9_7f4a_7c15
            var mixed = state
            mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
            mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
            return Int((mixed ^ mixed >> 31) % UInt64(bound))
        }
        var endpoint = UpstreamEndpoint()
        var shelf = Shelf()
        // The slow way: stores by hash and tier, and the key of each hash.
        var held: [UInt64: (key: UInt64, counts: [Int])] = [:]
        var inFlight: UpstreamEndpoint.Work?
        for _ in 0..<20_000 {
            let hash = UInt64(random(40))
            let tier = Tier.allCases[random(4)]
            switch random(100) {
            case 0..<40:
                // Mostly always the same tokens, which two hashes share.
                let key = random(20) == 0 ? UInt64(random(20)) : hash / 2
                endpoint.stored(hash, key: key, in: tier, group: nil)
                if held[hash]?.key != key { held[hash] = (key, [0, 0, 0, 0]) }
                held[hash]?.counts[Int(tier.rawValue)] += 1
            case 40..<80:
                endpoint.removed(hash, from: tier)
                if let count = held[hash]?.counts[Int(tier.rawValue)], count > 0 {
                    held[hash]?.counts[Int(tier.rawValue)] = count - 1
                }
            case 80:
                endpoint.cleared()
                held = [:]
            case 81..<90 where inFlight == nil:
                inFlight = endpoint.takeWork(limit: 1 + random(8))
            case 90..<97:
                guard let work = inFlight else { continue }
                apply(work, to: &shelf)
                endpoint.finish(work)
                inFlight = nil
            case 97:
                // Refused, and done in part.
                guard let work = inFlight else { continue }
                if random(2) == 0 { apply(work, to: &shelf) }
                endpoint.putBack(work)
                inFlight = nil
            case 98:
                // The connection is lost, and perhaps all that Redis had.
                if random(2) == 0 { shelf = Shelf() }
                endpoint.doubt()
                if let work = inFlight { endpoint.putBack(work) }
                inFlight = nil
            default: break
            }
        }
        if let work = inFlight { endpoint.putBack(work) }
        drain(&endpoint, to: &shelf)
        var expected: [UInt64: Set<Int>] = [:]
        for (key, counts) in held.values {
            for tier in 0..<4 where counts[tier] > 0 { expected[key, default: []].insert(2 * tier) }
        }
        #expect(shelf.blocks == expected)
        for (hash, block) in held where block.counts.contains(where: { $0 > 0 }) {
            #expect(shelf.hashes[hash]?.contains(block.key) == true)
        }
        for key in 0..<40 as Range<UInt64> {
            for tier in Tier.allCases {
                let isHeld = expected[key]?.contains(2 * Int(tier.rawValue)) == true
                #expect((endpoint.word(on: key, in: tier) == .held) == isHeld)
            }
        }
    }
}
