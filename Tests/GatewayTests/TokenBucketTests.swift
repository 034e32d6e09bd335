import Core
import Gateway
import Testing

@Suite struct TokenBucketTests {
    private let start = MonotonicTime(nanoseconds: 7_000_000_000_123)

    @Test func aMinuteFillsIt() {
        var bucket = TokenBucket(perMinute: 60, at: start)
        let (all, none) = (bucket.take(60, at: start), bucket.take(1, at: start))
        #expect(all && !none)
        #expect(bucket.wait(for: 1, at: start) == .seconds(1))
        #expect(bucket.remaining(at: start + .milliseconds(999)) == 0)
        #expect(bucket.remaining(at: start + .milliseconds(1000)) == 1)
        #expect(bucket.remaining(at: start + .seconds(60)) == 60)
        #expect(bucket.remaining(at: start + .seconds(6000)) == 60)
    }

    @Test func whatNeverFitsHasNoWait() {
        var bucket = TokenBucket(perMinute: 10, at: start)
        let taken = bucket.take(11, at: start)
        #expect(!taken)
        #expect(bucket.wait(for: 11, at: start) == nil)
        #expect(bucket.remaining(at: start) == 10)
    }

    @Test func debtIsPaidFirstAndBounded() {
        var bucket = TokenBucket(perMinute: 10, at: start)
        bucket.correct(by: -20, at: start)
        #expect(bucket.remaining(at: start) == 0)
        #expect(bucket.wait(for: 1, at: start) == .seconds(66))
        bucket.correct(by: -(Int.max / 2), at: start)
        let hours = bucket.wait(for: 10, at: start)
        #expect(hours == .seconds(60 * (TokenBucket.maximumDebt + 1)))
        bucket.correct(by: Int.max / 2, at: start)
        bucket.correct(by: Int.max / 2, at: start)
        #expect(bucket.remaining(at: start) == 10)
    }

    @Test func anotherLimitKeepsWhatWasUsed() {
        var bucket = TokenBucket(perMinute: 100, at: start)
        let taken = bucket.take(30, at: start)
        #expect(taken)
        bucket.setLimit(50, at: start)
        #expect(bucket.remaining(at: start) == 20)
        bucket.setLimit(1000, at: start)
        #expect(bucket.remaining(at: start) == 970)
    }

    @Test func theLargestLimitDoesNotOverflow() {
        var bucket = TokenBucket(perMinute: TokenBucket.maximumLimit, at: start)
        bucket.correct(by: -Int.max, at: start)
        bucket.correct(by: -Int.max, at: start)
        #expect(bucket.remaining(at: MonotonicTime(nanoseconds: .max)) == TokenBucket.maximumLimit)
    }

    /// Against a reference that lives through every microsecond and knows no shortcut.
    @Test(arguments: 0..<200) func doesWhatASlowOneDoes(seed: UInt64) {
        var random = SplitMix(seed)
        var limit = Int(random.below(5000)) + 1
        var now = start
        var bucket = TokenBucket(perMinute: limit, at: now)
        var slow = SlowBucket(limit)
        for _ in 0..<200 {
            let step = random.below(4) == 0 ? random.below(20_000) : random.below(50)
            now = now + .microseconds(Int64(step))
            for _ in 0..<step { slow.tick() }
            let count = Int(random.below(UInt64(limit + limit / 2 + 1)))
            switch random.below(6) {
            case 0...2:
                let (one, other) = (bucket.take(count, at: now), slow.take(count))
                #expect(one == other, "seed \(seed)")
            case 3:
                let signed = random.below(2) == 0 ? count : -count
                bucket.correct(by: signed, at: now)
                slow.correct(by: signed)
            case 4:
                let wait = bucket.wait(for: count, at: now)
                #expect(wait == slow.wait(for: count), "seed \(seed)")
            default:
                limit = Int(random.below(5000)) + 1
                bucket.setLimit(limit, at: now)
                slow.setLimit(limit)
            }
            #expect(bucket.remaining(at: now) == slow.remaining, "seed \(seed)")
        }
    }
}

/// A bucket by its definition: a minute is 60 million ticks, of which each adds `limit` parts.
private struct SlowBucket {
    private var limit: Int
    private var parts: Int
    private let part = 60_000_000

    init(_ limit: Int) {
        self.limit = limit
        parts = limit * part
    }

    var remaining: Int { parts < 0 ? 0 : parts / part }

    mutating func tick() { parts = min(parts + limit, limit * part) }

    mutating func take(_ count: Int) -> Bool {
        guard count * part <= parts else { return false }
        parts -= count * part
        return true
    }

    mutating func correct(by count: Int) {
        parts = min(parts + count * part, limit * part)
        parts = max(parts, -60 * limit * part)
    }

    mutating func setLimit(_ new: Int) {
        let used = limit * part - parts
        limit = new
        parts = max(new * part - used, -60 * new * part)
    }

    /// By trying: the first tick after which it is there.
    func wait(for count: Int) -> Duration? {
        guard count <= limit else { return nil }
        let missing = count * part - parts
        guard missing > 0 else { return .zero }
        var low = 0
        var high = 3_600_000_000 * 2
        while high - low > 1 {
            let middle = (low + high) / 2
            if middle * limit >= missing { high = middle } else { low = middle }
        }
        return .microseconds(high)
    }
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators.
struct SplitMix {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ (word >> 30)) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ (word >> 27)) &* 0x94d0_49bb_1331_11eb
        return word ^ (word >> 31)
    }

    mutating func below(_ bound: UInt64) -> UInt64 { next() % bound }
}
