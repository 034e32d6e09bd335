import Core
import KVIndex
import Synchronization

/// What the engines of a source last told of themselves. Written on its loop, read on any thread.
final class EngineBoard: Sendable {
    private let index: KVIndex
    private let reports = Mutex<[EngineReport]>([])

    init(index: KVIndex) {
        self.index = index
    }

    /// Shows these engines from now on.
    func show(_ reports: [EngineReport]) {
        let sorted = reports.sorted { $0.name < $1.name }
        self.reports.withLock { $0 = sorted }
    }

    /// Every engine by name.
    var engines: [KVEngineState] {
        reports.withLock(\.self).map { report in
            let progress = report.progress
            return KVEngineState(
                name: report.name, isConnected: progress.isConnected, sequence: progress.sequence,
                index: index.counters(of: report.endpoint) ?? EndpointCounters(),
                heldCount: progress.heldCount, decodeErrorCount: progress.decodeErrorCount,
                quarantineCount: progress.quarantineCount, quarantineEnd: progress.quarantineEnd)
        }
    }
}

/// One engine on the board.
final class EngineReport: Sendable {
    /// What changes with every batch.
    struct Progress {
        var isConnected = false
        var sequence = SequenceTracker.Counters()
        var heldCount = 0
        var decodeErrorCount = 0
        var quarantineCount = 0
        var quarantineEnd: MonotonicTime?
    }

    let name: String
    let endpoint: EndpointHandle
    private let last = Mutex(Progress())

    init(name: String, endpoint: EndpointHandle) {
        self.name = name
        self.endpoint = endpoint
    }

    var progress: Progress {
        get { last.withLock(\.self) }
        set { last.withLock { $0 = newValue } }
    }
}
