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
            var state = report.state
            if let counters = index.counters(of: report.endpoint) { state.index = counters }
            return state
        }
    }
}

/// One engine on the board, except for what the index knows of it.
final class EngineReport: Sendable {
    let name: String
    let endpoint: EndpointHandle
    private let last: Mutex<KVEngineState>

    init(name: String, endpoint: EndpointHandle) {
        self.name = name
        self.endpoint = endpoint
        last = Mutex(KVEngineState(name: name))
    }

    var state: KVEngineState { last.withLock(\.self) }

    /// Something changed.
    func change(_ body: (inout sending KVEngineState) -> Void) {
        last.withLock { body(&$0) }
    }
}
