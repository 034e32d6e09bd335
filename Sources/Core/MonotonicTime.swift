/// A point on the machine's monotonic clock. Points of different machines do not compare.
public struct MonotonicTime: Hashable, Comparable, Sendable {
    /// Nanoseconds since an arbitrary origin, usually boot.
    public var nanoseconds: UInt64

    /// A point at `nanoseconds` after the origin. Tests make their own time with it.
    public init(nanoseconds: UInt64) {
        self.nanoseconds = nanoseconds
    }

    /// The clock as it stands now (`CLOCK_MONOTONIC`).
    public static var now: MonotonicTime {
        MonotonicTime(
            nanoseconds: UInt64(
                clamping: SuspendingClock().systemEpoch.duration(to: .now).nanoseconds))
    }

    /// Whether `left` came first.
    public static func < (left: MonotonicTime, right: MonotonicTime) -> Bool {
        left.nanoseconds < right.nanoseconds
    }

    /// The point `duration` later.
    public static func + (time: MonotonicTime, duration: Duration) -> MonotonicTime {
        MonotonicTime(
            nanoseconds: UInt64(clamping: Int64(clamping: time.nanoseconds) + duration.nanoseconds))
    }

    /// The time from `earlier` to `later`; negative if they are the other way round.
    public static func - (later: MonotonicTime, earlier: MonotonicTime) -> Duration {
        .nanoseconds(Int64(bitPattern: later.nanoseconds &- earlier.nanoseconds))
    }
}

extension Duration {
    /// Whole nanoseconds; exact for anything under 292 years.
    public var nanoseconds: Int64 {
        // One instruction; by `components` it is a division of 128 bits by 64 and two by 32.
        Int64(1_000_000_000).dividingFullWidth(
            (
                high: Int64(truncatingIfNeeded: attoseconds >> 64),
                low: UInt64(truncatingIfNeeded: attoseconds)
            )
        ).quotient
    }

    /// Seconds as a floating-point number, for metrics and reports.
    public var seconds: Double { Double(nanoseconds) / 1e9 }

    /// A duration from floating-point seconds.
    public init(seconds: Double) {
        self = .nanoseconds(Int64(seconds * 1e9))
    }
}
