/// The last changes of one endpoint, so that a follower need not hear everything again. Changes
/// are numbered without gaps.
struct ReplicaLog {
    /// The position before the oldest change that is left.
    private(set) var base: UInt64
    private var changes: [ReplicaChange] = []
    private let maximumCount: Int

    /// - Parameter start: the position before the first change; larger than any that another log
    ///   of this process has reached.
    init(after start: UInt64, maximumCount: Int) {
        base = start
        self.maximumCount = max(2, maximumCount)
    }

    /// The position after the newest change.
    var end: UInt64 { base + UInt64(changes.count) }

    mutating func append(_ change: ReplicaChange) {
        if changes.count == maximumCount {
            // By halves, so that room is not made for every change.
            changes.removeFirst(maximumCount / 2)
            base += UInt64(maximumCount / 2)
        }
        changes.append(change)
    }

    /// The changes after a position, `limit` at most; nil if they are not all there any more, or
    /// the position is none of this log.
    func changes(after position: UInt64, limit: Int) -> ArraySlice<ReplicaChange>? {
        guard position >= base, position <= end else { return nil }
        return changes[Int(position - base)...].prefix(limit)
    }
}

/// First in, first out.
struct Fifo<Element> {
    private var elements: [Element] = []
    private var head = 0

    var count: Int { elements.count - head }
    var isEmpty: Bool { count == 0 }
    var first: Element? { isEmpty ? nil : elements[head] }

    mutating func append(_ element: Element) { elements.append(element) }

    mutating func popFirst() -> Element? {
        guard let first else { return nil }
        head += 1
        if head == elements.count || head >= 1024 {
            elements.removeFirst(head)
            head = 0
        }
        return first
    }
}
