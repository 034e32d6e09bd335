import Synchronization

/// Metrics of one name that differ by the values of their labels. Any thread.
///
/// Resolve a child once and keep it: looking it up takes a lock. Above `limit` label sets, new
/// ones share one child whose label values are all `other`.
public final class Family<Child: Sendable>: Sendable {
    /// The names of the labels.
    public let labels: [String]
    private let limit: Int
    private let make: @Sendable () -> Child
    private let children = Mutex<[[String]: Entry]>([:])

    private struct Entry {
        var text: String
        var child: Child
    }

    init(labels: [String], limit: Int, make: @escaping @Sendable () -> Child) {
        for label in labels where !isLabelName(label) { fatalError("bad label name '\(label)'") }
        self.labels = labels
        self.limit = limit
        self.make = make
    }

    /// The child with these label values, in the order of ``labels``; made if it is new.
    public func child(_ values: String...) -> Child { child(values) }

    /// The child with these label values, in the order of ``labels``; made if it is new.
    public func child(_ values: [String]) -> Child {
        precondition(values.count == labels.count, "\(labels.count) label values are needed")
        return children.withLock { children in
            if let entry = children[values] { return entry.child }
            let other = labels.map { _ in "other" }
            let key = children.count < limit ? values : other
            if let entry = children[key] { return entry.child }
            let entry = Entry(text: labelText(labels, key), child: make())
            children[key] = entry
            return entry.child
        }
    }

    /// The children and their labels as text, in the order of the text.
    var sorted: [(labels: String, child: Child)] {
        let entries = children.withLock { Array($0.values) }
        return entries.sorted { $0.text < $1.text }.map { ($0.text, $0.child) }
    }
}
