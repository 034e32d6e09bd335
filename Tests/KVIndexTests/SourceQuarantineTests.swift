import Core
import KVIndex
import Testing

@Suite struct SourceQuarantineTests {
    private struct Source {
        var quarantine = SourceQuarantine()
        var now = MonotonicTime(nanoseconds: 1_000_000_000)

        /// One bad batch after another, so many seconds apart; the verdicts.
        mutating func misbehave(
            _ count: Int, every seconds: Int = 1
        ) -> [SourceQuarantine.Verdict] {
            (0..<count).map { _ in
                now = now + .seconds(seconds)
                return quarantine.malformed(at: now)
            }
        }

        /// Seconds that the quarantine lasts; nil if there is none. Passes them.
        mutating func sitOut() -> Double? {
            guard let end = quarantine.end else { return nil }
            let seconds = (end - now).seconds
            let endedEarly = quarantine.tick(MonotonicTime(nanoseconds: end.nanoseconds - 1))
            #expect(!endedEarly && quarantine.end == end)
            let ended = quarantine.tick(end)
            #expect(ended && quarantine.end == nil)
            now = end
            return seconds
        }
    }

    @Test func eightBadBatchesInAMinuteBeginAQuarantine() {
        var source = Source()
        let verdicts = source.misbehave(8)
        #expect(verdicts == Array(repeating: .bear, count: 7) + [.quarantine])
        #expect(source.quarantine.count == 1)
        // What still arrives changes nothing.
        let end = source.quarantine.end
        let further = source.misbehave(20)
        #expect(further == Array(repeating: .bear, count: 20))
        #expect(source.quarantine.end == end && source.quarantine.count == 1)
    }

    @Test func slowMisdeedsOnlyCostTheBlocks() {
        var source = Source()
        // Seven within any minute.
        let verdicts = source.misbehave(130, every: 9)
        #expect(source.quarantine.count == 0)
        #expect(verdicts.indices.filter { verdicts[$0] == .forget } == [63, 127])
        #expect(verdicts.count { $0 == .bear } == 128)
        // Blocks that were dropped meanwhile begin anew.
        source.quarantine.forgot()
        let later = source.misbehave(64, every: 9)
        #expect(later == Array(repeating: .bear, count: 63) + [.forget])
    }

    @Test func theWindowSlides() {
        var source = Source()
        _ = source.misbehave(7)
        source.now = source.now + .seconds(53)
        // The first of the seven was 60 seconds ago.
        let verdicts = source.misbehave(1) + source.misbehave(1, every: 0)
        #expect(verdicts == [.bear, .quarantine])
    }

    @Test func quarantinesDoubleUpToALimitAndAreForgivenAfterGoodBehaviour() {
        var source = Source()
        var lengths: [Double?] = []
        for _ in 0..<7 {
            _ = source.misbehave(8)
            lengths.append(source.sitOut())
        }
        #expect(lengths == [30, 60, 120, 240, 480, 600, 600])
        #expect(source.quarantine.count == 7)
        // The time of the quarantine itself is no good behaviour, and neither is too short a time.
        source.now = source.now + .seconds(590)
        _ = source.misbehave(8)
        let unforgiven = source.sitOut()
        source.now = source.now + .seconds(599)
        _ = source.misbehave(8)
        let forgiven = source.sitOut()
        #expect(unforgiven == 600 && forgiven == 30)
    }

    @Test func aTickWithoutQuarantineEndsNothing() {
        var source = Source()
        let ended = source.quarantine.tick(source.now)
        #expect(!ended)
    }
}
