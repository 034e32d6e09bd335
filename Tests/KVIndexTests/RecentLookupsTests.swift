import Core
import KVIndex
import Synchronization
import Testing

@Suite struct RecentLookupsTests {
    @Test func nothingIsKeptBeforeSomebodyListens() throws {
        let lookups = try KVIndex().recentLookups
        lookups.note([1])
        #expect(lookups.take() == [])
        lookups.open {}
        lookups.note([2])
        lookups.note([])
        #expect(lookups.take() == [[2]])
        lookups.note([3])
        lookups.close()
        lookups.note([4])
        #expect(lookups.take() == [])
        #expect(lookups.takeDroppedCount() == 0)
    }

    @Test func theListenerIsCalledOnceUntilItTakes() throws {
        let lookups = try KVIndex().recentLookups
        let calls = Atomic<Int>(0)
        lookups.open { calls.add(1, ordering: .relaxed) }
        for key in 1...3 as ClosedRange<UInt64> { lookups.note([key]) }
        #expect(calls.load(ordering: .relaxed) == 1)
        #expect(lookups.take() == [[1], [2], [3]])
        lookups.note([4])
        #expect(calls.load(ordering: .relaxed) == 2)
    }

    @Test func theNewestPromptsWin() throws {
        let lookups = try KVIndex().recentLookups
        lookups.open {}
        for key in 0..<1000 as Range<UInt64> { lookups.note([key]) }
        let kept = lookups.take()
        #expect(kept.count == 64)
        #expect(kept.last == [999])
        #expect(lookups.takeDroppedCount() == 1000 - 64)
        #expect(lookups.takeDroppedCount() == 0)
    }

    @Test func manyThreadsNoteAtATime() async throws {
        let lookups = try KVIndex().recentLookups
        lookups.open {}
        await withTaskGroup(of: Void.self) { group in
            for thread in 0..<8 as Range<UInt64> {
                group.addTask {
                    for number in 0..<10_000 as Range<UInt64> { lookups.note([thread, number]) }
                }
            }
        }
        #expect(lookups.take().count + lookups.takeDroppedCount() == 80_000)
    }
}
