import Core
import Synchronization

// Sendable: the counters are atomic; the pointer to them is set once and freed in `deinit`.
/// Counts of observations by size, in classic Prometheus buckets. Any thread; takes no lock.
public final class Histogram: @unchecked Sendable {
    /// The upper bounds of the buckets, in ascending order, without the infinite one.
    public let bounds: [Double]
    /// How the exposition names the buckets: `le="0.5"`.
    let bucketLabels: [String]
    /// One more than there are bounds.
    private let counts: UnsafeMutablePointer<Atomic<UInt64>>
    private let total = AtomicDouble()

    init(bounds: [Double]) {
        precondition(
            zip(bounds, bounds.dropFirst()).allSatisfy(<), "histogram bounds must ascend")
        self.bounds = bounds
        bucketLabels = (bounds + [.infinity]).map { "le=\"\(number($0))\"" }
        counts = .allocate(capacity: bounds.count + 1)
        for index in 0...bounds.count { (counts + index).initialize(to: Atomic(0)) }
    }

    deinit {
        counts.deinitialize(count: bounds.count + 1)
        counts.deallocate()
    }

    /// Counts one observation. NaN counts in the last bucket.
    public func observe(_ value: Double) {
        counts[bucket(of: value)].add(1, ordering: .relaxed)
        total.add(value)
    }

    /// Counts a duration, in seconds.
    public func observe(_ duration: Duration) { observe(duration.seconds) }

    /// How many observations there were.
    public var count: Int { bucketCounts.reduce(0, +) }

    /// The sum of all observations.
    public var sum: Double { total.load() }

    /// Observations per bucket, not cumulative; the last is the infinite one.
    public var bucketCounts: [Int] {
        (0...bounds.count).map { Int(clamping: counts[$0].load(ordering: .relaxed)) }
    }

    /// The first bucket whose bound is not below `value`.
    private func bucket(of value: Double) -> Int {
        var low = 0
        var high = bounds.count
        while low < high {
            let middle = (low + high) / 2
            if value <= bounds[middle] { high = middle } else { low = middle + 1 }
        }
        return low
    }
}

/// Bounds of histograms in common use.
public enum Buckets {
    /// Whole requests: 5 ms to one hour, as the upstream endpoint picker has them.
    public static let requestSeconds: [Double] = [
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20,
        30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600,
    ]

    /// Scheduling decisions and plugins: 0.1 ms to 0.1 s, as the upstream endpoint picker.
    public static let schedulingSeconds: [Double] = [
        0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
    ]

    /// `count` bounds, each `factor` times the one before.
    public static func exponential(from start: Double, factor: Double, count: Int) -> [Double] {
        var bounds: [Double] = []
        var bound = start
        for _ in 0..<count {
            bounds.append(bound)
            bound *= factor
        }
        return bounds
    }
}
