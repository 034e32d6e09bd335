import Core
import Hashing
import KVIndex
import Testing

@Suite struct BlockChangeTests {
    private let prompt: [UInt32] = Array(1...16)

    private func makeIndex() throws -> KVIndex {
        var configuration = KVIndex.Configuration()
        configuration.blockSize = 4
        return try KVIndex(configuration: configuration)
    }

    @Test func eventsTellWhatTheyChanged() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        var changes: [BlockChange] = []
        index.apply(
            batch {
                // A child that waits for its parent is told of when it is stored.
                $0.addStore([3], parent: 2, tokens: Array(9...12), blockSize: 4)
                $0.addStore([1, 2], parent: nil, tokens: Array(1...8), blockSize: 4)
                $0.addStore([2], parent: nil, tokens: [], blockSize: 0, tier: .cpu)
                $0.addRemoval([1, 99])
            }, from: engine, model: "m", recording: &changes)
        #expect(
            changes == [
                .stored(engineHash: 1, key: keys[0], tier: .gpu),
                .stored(engineHash: 2, key: keys[1], tier: .gpu),
                .stored(engineHash: 3, key: keys[2], tier: .gpu),
                .stored(engineHash: 2, key: keys[1], tier: .cpu),
                .removed(engineHash: 1, tier: .gpu), .removed(engineHash: 99, tier: .gpu),
            ])
        changes = []
        index.apply(batch { $0.addClear() }, from: engine, model: "m", recording: &changes)
        #expect(changes == [.cleared])
    }

    @Test func blocksOfSeveralKeysAreNotTold() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        var changes: [BlockChange] = []
        index.apply(
            batch { $0.addStore([1, 2], parent: nil, tokens: prompt, blockSize: 8) },
            from: engine, model: "m", recording: &changes)
        #expect(changes == [])
        #expect(index.match(prompt, on: engine).blockCount == 4)
    }

    @Test func blocksThatOthersTellOfArePartOfTheIndex() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        let hashes: [UInt64] = [1, 2, 3]
        index.add(hashes.span, keys: keys.span.extracting(first: 3), in: .gpu, of: engine)
        #expect(index.match(prompt, on: engine).blockCount == 3)
        // Events go on from there.
        index.apply(
            batch { $0.addStore([4], parent: 3, tokens: Array(13...16), blockSize: 4) },
            from: engine, model: "m")
        #expect(index.match(prompt, on: engine).blockCount == 4)
        index.apply(batch { $0.addRemoval([3]) }, from: engine, model: "m")
        #expect(index.match(prompt, on: engine).blockCount == 2)
        index.takeBack(hashes.span.extracting(first: 2), from: .gpu, of: engine)
        #expect(index.match(prompt, on: engine).blockCount == 0)
    }

    @Test func storesTellTheGroupThatTheirEventNamed() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        var changes: [BlockChange] = []
        index.apply(
            batch {
                $0.addStore([1], parent: nil, tokens: Array(1...4), blockSize: 4, group: 3)
                $0.addStore([1], parent: nil, tokens: [], blockSize: 0, tier: .cpu)
                $0.addStore([1], parent: nil, tokens: [], blockSize: 0, tier: .disk, group: 3)
            }, from: engine, model: "m", recording: &changes)
        #expect(
            changes == [
                .stored(engineHash: 1, key: keys[0], tier: .gpu, group: 3),
                .stored(engineHash: 1, key: keys[0], tier: .cpu, group: nil),
                .stored(engineHash: 1, key: keys[0], tier: .disk, group: 3),
            ])
    }

    @Test func blocksOfOthersAreRenewedWithoutBeingCountedTwice() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        index.add(
            keys.span.extracting(first: 2), keys: keys.span.extracting(first: 2), in: .gpu,
            of: engine)
        for _ in 0..<20 { index.renew(keys.span, keys: keys.span, in: .gpu, of: engine) }
        #expect(index.match(prompt, on: engine).blockCount == 4)
        index.takeBack(keys.span, from: .gpu, of: engine)
        #expect(index.match(prompt, on: engine).blockCount == 0)
    }

    @Test func eventsTakeThePlaceOfWhatOthersTold() throws {
        let index = try makeIndex()
        let engine = try index.register("a")
        let keys = index.hasher(model: "m").keys(of: prompt.span)
        index.add(keys.span, keys: keys.span, in: .gpu, of: engine)
        index.apply(
            batch { $0.addStore([1, 2], parent: nil, tokens: Array(1...8), blockSize: 4) },
            from: engine, model: "m")
        let hashes: [UInt64] = [1, 2]
        let told = keys.span.extracting(first: 2)
        index.takeBack(told, storedAs: hashes.span, keys: told, in: .gpu, of: engine)
        #expect(index.match(prompt, on: engine).blockCount == 4)
        // One removal takes each away, and nothing is left of the other hash.
        index.apply(batch { $0.addRemoval([2]) }, from: engine, model: "m")
        #expect(index.match(prompt, on: engine).blockCount == 1)
        index.apply(batch { $0.addRemoval([1]) }, from: engine, model: "m")
        #expect(index.match(prompt, on: engine).blockCount == 0)
        #expect(index.counters(of: engine)?.blockCount == 2)
        // A block that is gone meanwhile does not come back.
        index.takeBack(
            keys.span.extracting(2..<3), storedAs: hashes.span.extracting(first: 1),
            keys: keys.span.extracting(2..<3), in: .gpu, of: engine)
        #expect(index.counters(of: engine)?.blockCount == 1)
    }
}
