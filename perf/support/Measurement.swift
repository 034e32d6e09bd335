import Foundation

/// The figures of one thing over the rounds of a run.
public struct Measurement: Sendable {
    /// One figure per round, in order.
    public var rounds: [Double]

    /// Makes a measurement of at least one round.
    public init(rounds: [Double]) {
        precondition(!rounds.isEmpty)
        self.rounds = rounds
    }

    /// The median of the rounds.
    public var median: Double {
        let sorted = rounds.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// The CPU time of this process so far, all threads, in nanoseconds.
public func processCPUNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// Measures the CPU time, in nanoseconds per operation, of each of `bodies`, which perform
/// `operations` each time they are called. The bodies take turns in every round, so that what else
/// the machine does falls on all of them; a first, unmeasured round warms up.
public func measureCPUTime(
    rounds: Int = 9, operations: Int, _ bodies: [() -> Void]
) -> [Measurement] {
    var figures = [[Double]](repeating: [], count: bodies.count)
    for round in 0...rounds {
        for (index, body) in bodies.enumerated() {
            let start = processCPUNanoseconds()
            body()
            let elapsed = processCPUNanoseconds() - start
            if round > 0 {
                figures[index].append(Double(elapsed) / Double(operations))
            }
        }
    }
    return figures.map(Measurement.init(rounds:))
}
