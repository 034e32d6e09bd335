package import Core

/// What may be used in a minute: full at first, filled evenly, and never fuller than that.
///
/// A value that may sink below zero, because what a reply used is known only at its end; then
/// nothing can be taken until the debt is paid. Sums are exact to the microsecond.
package struct TokenBucket: Equatable, Sendable {
    /// What it holds when full, and what a minute adds; 1 to ``maximumLimit``.
    package private(set) var limit: Int
    /// In parts of ``partsPerToken``, of which every microsecond adds `limit`.
    private var level: Int
    private var filledAt: UInt64

    package static let maximumLimit = 1_000_000_000
    /// The debt that is kept, in minutes.
    package static let maximumDebt = 60
    private static let partsPerToken = 60_000_000

    /// A full bucket.
    package init(perMinute limit: Int, at now: MonotonicTime) {
        precondition((1...Self.maximumLimit).contains(limit), "no limit of a bucket")
        self.limit = limit
        level = limit * Self.partsPerToken
        filledAt = now.nanoseconds / 1000
    }

    /// Takes `count`, or nothing if that is not there.
    package mutating func take(_ count: Int, at now: MonotonicTime) -> Bool {
        fill(at: now)
        guard count <= limit, level >= count * Self.partsPerToken else { return false }
        level -= count * Self.partsPerToken
        return true
    }

    /// Gives `count` back, or takes it whether or not it is there if it is negative.
    package mutating func correct(by count: Int, at now: MonotonicTime) {
        fill(at: now)
        let most = limit * Self.maximumDebt
        level += min(max(count, -most), most) * Self.partsPerToken
        level = min(max(level, -most * Self.partsPerToken), limit * Self.partsPerToken)
    }

    /// Changes the limit; what was used stays used.
    package mutating func setLimit(_ limit: Int, at now: MonotonicTime) {
        precondition((1...Self.maximumLimit).contains(limit), "no limit of a bucket")
        fill(at: now)
        level = (limit - self.limit) * Self.partsPerToken + level
        self.limit = limit
        correct(by: 0, at: now)
    }

    /// What can be taken, in whole numbers.
    package func remaining(at now: MonotonicTime) -> Int {
        max(0, filled(at: now).level / Self.partsPerToken)
    }

    /// How long until `count` can be taken if nobody takes anything before; nil: never.
    package func wait(for count: Int, at now: MonotonicTime) -> Duration? {
        guard count <= limit else { return nil }
        let missing = max(0, count * Self.partsPerToken - filled(at: now).level)
        return .microseconds((missing + limit - 1) / limit)
    }

    private func filled(at now: MonotonicTime) -> TokenBucket {
        var bucket = self
        bucket.fill(at: now)
        return bucket
    }

    private mutating func fill(at now: MonotonicTime) {
        let now = now.nanoseconds / 1000
        guard now > filledAt else { return }
        // More than this fills it from any debt.
        let enough = UInt64((Self.maximumDebt + 1) * Self.partsPerToken)
        level += Int(min(now - filledAt, enough)) * limit
        level = min(level, limit * Self.partsPerToken)
        filledAt = now
    }
}
