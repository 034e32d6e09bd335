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

    /// The figures in another unit: each multiplied by `factor`.
    public func scaled(by factor: Double) -> Measurement {
        Measurement(rounds: rounds.map { $0 * factor })
    }

    /// The median of the rounds.
    public var median: Double {
        let sorted = rounds.sorted()
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }
}

/// One of the things that are measured side by side.
public struct Contender {
    fileprivate let operations: Int
    fileprivate let cpuNanoseconds: () -> UInt64
    fileprivate let body: () throws -> Void

    /// What `body` costs a process, this one if it is nil, in `operations` operations.
    public init(
        operations: Int, in process: MeasuredProcess? = nil, _ body: @escaping () throws -> Void
    ) {
        self.operations = operations
        cpuNanoseconds = { process?.cpuNanoseconds ?? processCPUNanoseconds() }
        self.body = body
    }
}

/// Measures the CPU time per operation of each contender, in nanoseconds. They take turns in every
/// round, so that what else the machine does falls on all of them; a first, unmeasured round warms
/// up.
public func measureCPUTime(rounds: Int = 9, _ contenders: [Contender]) throws -> [Measurement] {
    var figures = [[Double]](repeating: [], count: contenders.count)
    for round in 0...rounds {
        for (index, contender) in contenders.enumerated() {
            let start = contender.cpuNanoseconds()
            try contender.body()
            let elapsed = contender.cpuNanoseconds() - start
            if round > 0 {
                figures[index].append(Double(elapsed) / Double(contender.operations))
            }
        }
    }
    return figures.map(Measurement.init(rounds:))
}
