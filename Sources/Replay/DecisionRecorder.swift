internal import Synchronization
public import Telemetry

import struct Foundation.Date

/// What can be set about recording.
public struct RecorderConfiguration: Sendable {
    /// The file; what was written before is in a second one, `<path>.1`.
    public var path: String
    /// The share of the decisions that are recorded, 0 to 1.
    public var fraction = 1.0
    /// The most that both files together hold.
    public var maximumBytes = 256 << 20
    /// The most that may wait to be written; more is dropped.
    public var maximumWaitingBytes = 16 << 20

    /// Records to a file.
    public init(path: String) {
        self.path = path
    }
}

/// Writes records of decisions to a file, on a thread of its own. Any thread.
///
/// A decision is copied, no more; its record waits in a queue that is bounded in bytes, and is
/// dropped and counted where that is full or the file cannot be written.
public final class DecisionRecorder: Sendable {
    private struct Queue {
        var records: [DecisionRecord] = []
        var waitingBytes = 0
        var isScheduled = false
    }

    private let configuration: RecorderConfiguration
    private let writer: @Sendable (@escaping @Sendable () -> Void) -> Void
    private let queue = Mutex(Queue())
    private let file: Mutex<RecordFile>
    private let turn = Atomic<UInt64>(0)
    private let threshold: UInt64
    private let written: Counter
    private let dropped: Counter

    /// Opens the file, which may exist. `plugins` are those of the configuration. `writer` runs
    /// closures one after the other on a thread that may block.
    ///
    /// - Throws: ``RecordError`` if the file cannot be written.
    public init(
        _ configuration: RecorderConfiguration, plugins: [RecordedPlugin],
        registry: MetricsRegistry,
        on writer: @escaping @Sendable (@escaping @Sendable () -> Void) -> Void
    ) throws(RecordError) {
        self.configuration = configuration
        self.writer = writer
        threshold =
            configuration.fraction >= 1
            ? .max : UInt64(max(0, configuration.fraction) * 0x1p64)
        written = registry.counter(
            "llmd_router_decision_records_written_total", "Decisions that were recorded.")
        dropped = registry.counter(
            "llmd_router_decision_records_dropped_total",
            "Decisions that should have been recorded: the queue was full, or the file failed.")
        file = Mutex(
            try RecordFile.open(
                configuration.path, maximumBytes: configuration.maximumBytes / 2,
                plugins: plugins))
    }

    /// Whether the next decision is recorded.
    public func takesNext() -> Bool {
        guard threshold < .max else { return true }
        // Scattered, so that no pattern of requests is in step with it (SplitMix64).
        var mixed = turn.wrappingAdd(0x9e37_79b9_7f4a_7c15, ordering: .relaxed).newValue
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31) < threshold
    }

    /// Has a record written.
    public func record(_ record: DecisionRecord) {
        var record = record
        record.time = Int(Date().timeIntervalSince1970 * 1000)
        let weight = record.weight
        let (isTaken, isFirst) = queue.withLock { [record] queue in
            guard queue.waitingBytes + weight <= configuration.maximumWaitingBytes else {
                return (false, false)
            }
            queue.records.append(record)
            queue.waitingBytes += weight
            defer { queue.isScheduled = true }
            return (true, !queue.isScheduled)
        }
        if !isTaken { dropped.increment() }
        if isFirst { writer { self.writeWaiting() } }
    }

    /// Writes what waits, on the calling thread: before the process ends.
    public func flush() {
        writeWaiting()
    }

    private func writeWaiting() {
        file.withLock { file in
            let records = queue.withLock { queue in
                let records = queue.records
                queue.records = []
                queue.isScheduled = false
                return records
            }
            for record in records {
                if file.write(record) { written.increment() } else { dropped.increment() }
            }
            // Only now: what is being written takes memory, too.
            let weight = records.reduce(0) { $0 + $1.weight }
            queue.withLock { $0.waitingBytes -= weight }
        }
    }
}
