import Core
import Hashing
import KVIndex
import Testing

@Suite struct KVIndexTests {
    private let start = MonotonicTime(nanoseconds: 0)

    private func makeIndex(
        blockSize: Int = 4, maximumBytes: Int = 64 << 20, parked: Int = 4096
    ) throws -> KVIndex {
        var configuration = KVIndex.Configuration()
        configuration.blockSize = blockSize
        configuration.maximumBytes = maximumBytes
        configuration.maximumParkedBlockCount = parked
        return try KVIndex(configuration: configuration)
    }

    private let prompt: [UInt32] = Array(1...16)

    @Test func tiersAreCountedByTheFastest() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        index.apply(
            batch {
                $0.addStore([1, 2, 3, 4], parent: nil, tokens: prompt, blockSize: 4)
                // Only the place: the tokens are known.
                $0.addStore([2, 3], parent: nil, tokens: [], blockSize: 0, tier: .cpu)
                $0.addRemoval([3])
            }, from: engine, model: "m")
        let match = index.match(prompt, on: engine)
        #expect(match.blockCount == 4)
        #expect(match.blockCount(in: .gpu) == 3)
        #expect(match.blockCount(in: .cpu) == 1)
        #expect(match.weighted(by: .standard) == 3.8)
        index.apply(batch { $0.addRemoval([3], tier: .cpu) }, from: engine, model: "m")
        #expect(index.match(prompt, on: engine).blockCount == 2)
    }

    @Test func duplicateStoresNeedAsManyRemovals() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let store = batch { $0.addStore([1], parent: nil, tokens: [1, 2, 3, 4], blockSize: 4) }
        index.apply(store, from: engine, model: "m")
        index.apply(store, from: engine, model: "m")
        let removal = batch { $0.addRemoval([1]) }
        index.apply(removal, from: engine, model: "m")
        #expect(index.match([1, 2, 3, 4], on: engine).blockCount == 1)
        index.apply(removal, from: engine, model: "m")
        #expect(index.match([1, 2, 3, 4], on: engine).blockCount == 0)
        index.apply(removal, from: engine, model: "m")
        #expect(index.counters(of: engine)?.removalsSkippedCount == 1)
        #expect(index.counters(of: engine)?.blockCount == 0)
    }

    @Test func childrenWaitForTheirParent() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        index.apply(
            batch {
                $0.addStore([3], parent: 2, tokens: Array(9...12), blockSize: 4)
                $0.addStore([4], parent: 3, tokens: Array(13...16), blockSize: 4)
                $0.addStore([2], parent: 1, tokens: Array(5...8), blockSize: 4)
                // Removed before it could be placed.
                $0.addRemoval([4])
            }, from: engine, model: "m")
        #expect(index.counters(of: engine)?.parkedCount == 3)
        #expect(index.match(prompt, on: engine).blockCount == 0)
        index.apply(
            batch { $0.addStore([1], parent: nil, tokens: Array(1...4), blockSize: 4) },
            from: engine, model: "m")
        #expect(index.counters(of: engine)?.parkedCount == 0)
        #expect(index.match(prompt, on: engine).blockCount == 3)
    }

    @Test func parkedBlocksAreBounded() throws {
        let index = try makeIndex(parked: 8)
        let engine = try index.register("a")
        for parent in 100..<200 as Range<UInt64> {
            index.apply(
                batch {
                    $0.addStore(
                        [parent * 1000], parent: parent, tokens: [1, 2, 3, 4], blockSize: 4)
                }, from: engine, model: "m")
        }
        let counters = try #require(index.counters(of: engine))
        #expect(counters.parkedCount == 8)
        #expect(counters.parkedDroppedCount == 92)
    }

    @Test func storesThatCannotBeIndexedAreSkipped() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let tokens: [UInt32] = [1, 2, 3, 4]
        index.apply(
            batch {
                $0.addStore([1], parent: nil, tokens: [1, 2, 3], blockSize: 4)
                $0.addStore([2], parent: nil, tokens: tokens, blockSize: 0)
                $0.addStore([3], parent: nil, tokens: tokens, blockSize: 4, loraID: 1)
                $0.addStore([4], parent: nil, tokens: tokens, blockSize: 4, attention: .other)
                $0.addStore([5], parent: nil, tokens: [], blockSize: 0, tier: .cpu)
                $0.addStore([6], parent: nil, tokens: tokens, blockSize: .max)
            }, from: engine, model: "m")
        #expect(index.match(tokens, on: engine).blockCount == 0)
        #expect(index.counters(of: engine)?.storesSkippedCount == 6)
        #expect(index.statistics.engineBlockCount == 0)
    }

    /// All KV-cache groups of a hybrid model hash alike.
    @Test func hybridModelsMatchWhatAllGroupsAllow() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let other = try index.register("b")
        let tokens: [UInt32] = Array(1...32)
        let hashes: [UInt64] = Array(1...8)
        index.apply(
            batch {
                $0.addStore(hashes, parent: nil, tokens: tokens, blockSize: 4, group: 0)
                $0.addStore(
                    hashes, parent: nil, tokens: tokens, blockSize: 4, group: 1,
                    attention: .slidingWindow(tokenCount: 9))
                $0.addStore(
                    [1002, 1004], parent: nil, tokens: Array(tokens[..<32]), blockSize: 16,
                    group: 2, attention: .state)
            }, from: engine, model: "m")
        index.apply(
            batch { $0.addStore(hashes, parent: nil, tokens: tokens, blockSize: 4) },
            from: other, model: "m")
        // The states lie at the ends of blocks 4 and 8.
        #expect(index.match(tokens, on: engine).blockCount == 8)
        #expect(index.match(Array(tokens[..<28]), on: engine).blockCount == 4)
        #expect(index.match(Array(tokens[..<12]), on: engine).blockCount == 0)
        // Out of the window of both, then within that of the first.
        index.apply(batch { $0.addRemoval([1, 2], group: 1) }, from: engine, model: "m")
        #expect(index.match(tokens, on: engine).blockCount == 8)
        #expect(index.match(Array(tokens[..<28]), on: engine).blockCount == 4)
        index.apply(batch { $0.addRemoval([3], group: 1) }, from: engine, model: "m")
        #expect(index.match(tokens, on: engine).blockCount == 8)
        #expect(index.match(Array(tokens[..<28]), on: engine).blockCount == 0)
        index.apply(batch { $0.addRemoval([1004], group: 2) }, from: engine, model: "m")
        #expect(index.match(tokens, on: engine).blockCount == 0)
        #expect(index.match(tokens, on: other).blockCount == 8)
        var matches = PrefixMatches()
        index.match(index.hasher(model: "m").keys(of: tokens.span).span, at: start, into: &matches)
        #expect(matches.endpoints.count == 2)
        // A removal without a group concerns all of them.
        index.apply(batch { $0.addRemoval(hashes) }, from: engine, model: "m")
        #expect(index.counters(of: engine)?.blockCount == 1)
        index.remove(engine)
        #expect(index.statistics.engineBlockCount == 8)
    }

    @Test func expectedBlocksOfHybridModelsCount() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        index.apply(
            batch {
                $0.addStore([1], parent: nil, tokens: [9, 9, 9, 9], blockSize: 4, group: 0)
                $0.addStore(
                    [1], parent: nil, tokens: [9, 9, 9, 9], blockSize: 4, group: 1,
                    attention: .slidingWindow(tokenCount: 5))
            }, from: engine, model: "m")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        index.expect(keys.span, at: engine, until: start + .seconds(1))
        #expect(index.match(prompt, on: engine).blockCount == 4)
    }

    /// From one engine block to 32 index blocks and the other way round.
    @Test(arguments: [1, 2, 3, 4, 8, 20, 128]) func blockSizesNeedNotAgree(engineSize: Int) throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let tokens = (0..<(engineSize * 6)).map { UInt32($0) }
        var parent: UInt64?
        for block in 0..<6 as Range<UInt64> {
            let first = Int(block) * engineSize
            index.apply(
                batch {
                    $0.addStore(
                        [block + 1], parent: parent,
                        tokens: Array(tokens[first..<first + engineSize]), blockSize: engineSize)
                }, from: engine, model: "m")
            parent = block + 1
        }
        #expect(index.match(tokens, on: engine).blockCount == tokens.count / 4)
        index.apply(batch { $0.addRemoval([6]) }, from: engine, model: "m")
        #expect(index.match(tokens, on: engine).blockCount == engineSize * 5 / 4)
        index.apply(batch { $0.addRemoval([1, 2, 3, 4, 5]) }, from: engine, model: "m")
        #expect(index.statistics.blockCount == 0)
        index.clear(engine)
        #expect(index.statistics.engineBlockCount == 0)
    }

    @Test func multimodalAndSaltKeysMatchThoseOfARequest() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        // An image over the first two blocks, another in the second.
        index.apply(
            batch {
                $0.addStore(
                    [1, 2, 3], parent: nil, tokens: Array(1...12), blockSize: 4, loraName: "lora",
                    extraKeys: [
                        .init(block: 0, value: "lora", offset: nil),
                        .init(block: 0, value: "image-1", offset: 1),
                        .init(block: 0, value: "salt", offset: nil),
                        .init(block: 1, value: "lora", offset: nil),
                        .init(block: 1, value: "image-1", offset: -3),
                        .init(block: 1, value: "image-2", offset: 2),
                        .init(block: 2, value: "lora", offset: nil),
                    ])
            }, from: engine, model: "m")
        let hasher = index.hasher(model: "lora")
        let tokens: [UInt32] = Array(1...12)
        let keys = hasher.keys(of: tokens.span) {
            hasher.extraKeys([["image-1", "salt"], ["image-1", "image-2"], []][$0])
        }
        var matches = PrefixMatches()
        index.match(keys.span, at: start, into: &matches)
        #expect(matches[engine].blockCount == 3)
    }

    /// The index's blocks are twice the engine's.
    @Test func extraKeysOfSmallEngineBlocksAreJoined() throws {
        let index = try makeIndex(blockSize: 8)
        let engine = try index.register("a")
        for (hash, parent, first) in [(1, nil, 1), (2, 1, 5)] as [(UInt64, UInt64?, UInt32)] {
            index.apply(
                batch {
                    $0.addStore(
                        [hash], parent: parent, tokens: Array(first..<first + 4), blockSize: 4,
                        extraKeys: hash == 1
                            ? [
                                .init(block: 0, value: "image", offset: 1),
                                .init(block: 0, value: "salt", offset: nil),
                            ] : [.init(block: 0, value: "image", offset: -3)])
                }, from: engine, model: "m")
        }
        let hasher = index.hasher(model: "m")
        let tokens: [UInt32] = Array(1...8)
        let keys = hasher.keys(of: tokens.span) { _ in hasher.extraKeys(["image", "salt"]) }
        var matches = PrefixMatches()
        index.match(keys.span, at: start, into: &matches)
        #expect(matches[engine].blockCount == 1)
    }

    @Test func expectedBlocksCountUntilTheirTime() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        index.expect(keys.span, at: engine, until: start + .seconds(1))
        index.expect(keys.span, at: engine, until: start + .seconds(2))
        let match = index.match(prompt, on: engine, at: start)
        #expect(match.blockCount(in: .gpu) == 4)
        // The engine stores, and drops, one of them meanwhile.
        index.apply(
            batch {
                $0.addStore([1], parent: nil, tokens: Array(1...4), blockSize: 4)
                $0.addRemoval([1])
            }, from: engine, model: "m")
        let second = start + .milliseconds(1500)
        #expect(index.match(prompt, on: engine, at: second).blockCount == 4)
        #expect(index.match(prompt, on: engine, at: start + .seconds(2)).blockCount == 0)
        #expect(index.statistics.blockCount == 0)
    }

    @Test func removedEndpointLeavesNothing() throws {
        let index = try makeIndex()
        let gone = try index.register("a")
        let stays = try index.register("b")
        let store = batch {
            $0.addStore([1, 2, 3, 4], parent: nil, tokens: prompt, blockSize: 4)
            $0.addStore([9], parent: 8, tokens: [1, 2, 3, 4], blockSize: 4)
        }
        for endpoint in [gone, stays] { index.apply(store, from: endpoint, model: "m") }
        index.expect(([77] as [UInt64]).span, at: gone, until: start + .seconds(60))
        index.remove(gone)
        #expect(index.endpoint(named: "a") == nil)
        #expect(index.counters(of: gone) == nil)
        #expect(index.match(prompt, on: gone).blockCount == 0)
        #expect(index.match(prompt, on: stays).blockCount == 4)
        #expect(index.statistics.blockCount == 4)
        // Late events of an endpoint that is gone do no harm.
        index.apply(store, from: gone, model: "m")
        #expect(try index.register("a") != gone)
    }

    /// More endpoints than one word of a bitset, with prefixes of all lengths.
    @Test func manyEndpointsHoldTheSamePrefix() throws {
        let index = try makeIndex()
        let tokens: [UInt32] = Array(0..<1200)
        let hashes: [UInt64] = Array(1...300)
        var engines: [EndpointHandle] = []
        for number in 0..<300 {
            let engine = try index.register("engine-\(number)")
            engines.append(engine)
            guard number > 0 else { continue }
            index.apply(
                batch {
                    $0.addStore(
                        Array(hashes[..<number]), parent: nil,
                        tokens: Array(tokens[..<(number * 4)]), blockSize: 4)
                    if number % 3 == 0 {
                        $0.addStore(
                            [hashes[number - 1]], parent: nil, tokens: [], blockSize: 0,
                            tier: .cpu)
                        $0.addRemoval([hashes[number - 1]])
                    }
                }, from: engine, model: "m")
        }
        var matches = PrefixMatches()
        let keys = index.hasher(model: "m").keys(of: tokens.span)
        for _ in 0..<2 {
            index.match(keys.span, at: start, into: &matches)
            for (number, engine) in engines.enumerated() {
                #expect(matches[engine].blockCount == number)
                let cpuCount = number > 0 && number % 3 == 0 ? 1 : 0
                #expect(matches[engine].blockCount(in: .cpu) == cpuCount)
            }
            #expect(matches.endpoints.count == 299)
        }
    }

    @Test func byteBudgetIsKeptAndWhatIsUsedStays() throws {
        let limit = 2 << 20
        let index = try makeIndex(maximumBytes: limit)
        let engine = try index.register("a")
        let hot: [UInt32] = Array(1...64)
        index.apply(
            batch {
                $0.addStore(Array(1...16), parent: nil, tokens: hot, blockSize: 4)
            }, from: engine, model: "m")
        var hash: UInt64 = 1000
        for round in 0..<3000 as Range<UInt32> {
            let tokens = (0..<256).map { round &* 256 &+ $0 &+ 1_000_000 }
            index.apply(
                batch {
                    $0.addStore(
                        (0..<64).map { hash + $0 }, parent: nil, tokens: tokens, blockSize: 4)
                }, from: engine, model: "m")
            hash += 64
            _ = index.match(hot, on: engine)
            #expect(index.statistics.byteCount <= limit)
        }
        let statistics = index.statistics
        #expect(statistics.evictionCount > 100_000)
        // The budget is used, not just kept.
        #expect(statistics.blockCount > 20_000)
        // Eviction looks at a few blocks at a time, and may meet a hot one among hot ones.
        #expect(index.match(hot, on: engine).blockCount >= 4)
    }

    @Test func impossibleConfigurationsAreRefused() {
        #expect(throws: KVIndexError.self) { try makeIndex(blockSize: 0) }
        #expect(throws: KVIndexError.self) { try makeIndex(maximumBytes: 1000) }
        #expect(throws: KVIndexError.self) {
            var configuration = KVIndex.Configuration()
            configuration.hashSeed = String(repeating: "s", count: 1025)
            _ = try KVIndex(configuration: configuration)
        }
    }

    @Test func endpointsAreLimited() throws {
        let index = try makeIndex()
        var last: EndpointHandle?
        for number in 0..<KVIndex.maximumEndpointCount { last = try index.register("\(number)") }
        #expect(throws: KVIndexError.tooManyEndpoints) { try index.register("one more") }
        index.remove(try #require(last))
        _ = try index.register("one more")
    }
}
