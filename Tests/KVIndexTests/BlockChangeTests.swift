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
}
