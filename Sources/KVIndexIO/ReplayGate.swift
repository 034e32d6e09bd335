/// Bounds how many replays run at a time; the others wait for their turn. Loop-bound.
final class ReplayGate {
    private let limit: Int
    private var running: Set<ObjectIdentifier> = []
    private var waiting: [(id: ObjectIdentifier, start: () -> Void)] = []

    init(limit: Int) {
        self.limit = limit
    }

    /// Calls `start` now or when another replay has ended.
    func enter(_ owner: AnyObject, start: @escaping () -> Void) {
        waiting.append((ObjectIdentifier(owner), start))
        startNext()
    }

    /// The owner's replay has ended, or need not begin.
    func leave(_ owner: AnyObject) {
        waiting.removeAll { $0.id == ObjectIdentifier(owner) }
        if running.remove(ObjectIdentifier(owner)) != nil { startNext() }
    }

    private func startNext() {
        while running.count < limit, !waiting.isEmpty {
            let next = waiting.removeFirst()
            running.insert(next.id)
            next.start()
        }
    }
}
