import Core
import FlowControl

/// The queues as plainly as they can be written: one list of what waits, searched from end to end.
struct SlowModel {
    struct Entry {
        var id: FlowRequestID
        var request: FlowRequest
        var key: UInt64
        var sequence: Int
        var deadline: MonotonicTime
    }

    let configuration: FlowControlConfiguration
    var waiting: [Entry] = []
    var inFlight: [(id: FlowRequestID, priority: Int)] = []
    /// For round robin: the flows that wait, in the order of their turns.
    private var turns: [Int: [String]] = [:]
    private var sequence = 0

    init(_ configuration: FlowControlConfiguration) {
        self.configuration = configuration
    }

    private func band(_ priority: Int) -> FlowControlConfiguration.Band {
        configuration.bands[priority]
            ?? (priority < 0 ? configuration.defaultNegativeBand : configuration.defaultBand)
    }

    /// What an arrival must come to: nil to be rejected.
    func arrival(_ request: FlowRequest, isOpen: Bool) -> (goesOn: Bool, isTaken: Bool) {
        let isFirst = !waiting.contains { $0.request.priority >= request.priority }
        if isFirst, isOpen { return (true, true) }
        let own = waiting.filter { $0.request.priority == request.priority }
        func bytes(_ entries: [Entry]) -> Int {
            entries.reduce(request.byteSize) { $0 + $1.request.byteSize }
        }
        let band = band(request.priority)
        let fits =
            own.count < band.maxRequests && bytes(own) <= band.maxBytes
            && waiting.count < configuration.globalRequestLimit
            && bytes(waiting) <= configuration.globalByteLimit
        return (false, fits)
    }

    mutating func queued(_ id: FlowRequestID, _ request: FlowRequest, now: MonotonicTime) {
        let deadline = now + (request.timeToLive ?? configuration.defaultRequestTTL)
        let key =
            switch band(request.priority).ordering {
            case .firstComeFirstServed: now.nanoseconds
            case .earliestDeadlineFirst: deadline.nanoseconds
            case .sloDeadline:
                request.ttftObjective.map { (request.receivedAt + $0).nanoseconds } ?? .max
            }
        sequence += 1
        let isNew = !waiting.contains {
            $0.request.priority == request.priority && $0.request.fairnessID == request.fairnessID
        }
        waiting.append(
            Entry(id: id, request: request, key: key, sequence: sequence, deadline: deadline))
        if isNew { turns[request.priority, default: []].append(request.fairnessID) }
    }

    /// Whom a dispatch must hand out.
    func next() -> Entry? {
        guard let priority = waiting.map(\.request.priority).max() else { return nil }
        var candidates = waiting.filter { $0.request.priority == priority }
        if band(priority).fairness == .roundRobin {
            let turn = turns[priority]?.first
            candidates = candidates.filter { $0.request.fairnessID == turn }
        }
        return candidates.min { ($0.key, $0.sequence) < ($1.key, $1.sequence) }
    }

    mutating func remove(_ id: FlowRequestID, wasServed: Bool) {
        guard let index = waiting.firstIndex(where: { $0.id == id }) else { return }
        let request = waiting.remove(at: index).request
        let isLeft = waiting.contains {
            $0.request.priority == request.priority && $0.request.fairnessID == request.fairnessID
        }
        guard wasServed || !isLeft else { return }
        turns[request.priority]?.removeAll { $0 == request.fairnessID }
        if isLeft { turns[request.priority]?.append(request.fairnessID) }
    }
}
