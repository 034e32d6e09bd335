/// A binary heap whose items can be found by their id, so that any of them is removed or moved in
/// O(log n). The positions by id are in an array that several heaps may share, as long as an id is
/// in one of them at a time.
struct IndexedHeap: Sendable {
    /// An item; the one with the smallest key, then sequence, comes first.
    struct Item: Sendable {
        var key: UInt64
        var sequence: UInt64
        var id: Int32

        func precedes(_ other: Item) -> Bool {
            key != other.key ? key < other.key : sequence < other.sequence
        }
    }

    /// In heap order: only the first is where it is for a reason.
    private(set) var items: [Item] = []

    var first: Item? { items.first }
    var isEmpty: Bool { items.isEmpty }
    var count: Int { items.count }

    mutating func insert(_ item: Item, _ positions: inout [Int32]) {
        items.append(item)
        moveUp(items.count - 1, item, &positions)
    }

    mutating func remove(_ id: Int32, _ positions: inout [Int32]) {
        let position = Int(positions[Int(id)])
        precondition(items[position].id == id, "not in this heap")
        let last = items.removeLast()
        guard position < items.count else { return }
        place(last, at: position, &positions)
    }

    /// Gives an item another key.
    mutating func update(_ item: Item, _ positions: inout [Int32]) {
        let position = Int(positions[Int(item.id)])
        precondition(items[position].id == item.id, "not in this heap")
        place(item, at: position, &positions)
    }

    /// Puts `item` into the free place `position`, or where it belongs instead.
    private mutating func place(_ item: Item, at position: Int, _ positions: inout [Int32]) {
        if position > 0, item.precedes(items[(position - 1) / 2]) {
            moveUp(position, item, &positions)
        } else {
            moveDown(position, item, &positions)
        }
    }

    private mutating func moveUp(_ position: Int, _ item: Item, _ positions: inout [Int32]) {
        var position = position
        while position > 0 {
            let parent = (position - 1) / 2
            guard item.precedes(items[parent]) else { break }
            items[position] = items[parent]
            positions[Int(items[position].id)] = Int32(position)
            position = parent
        }
        items[position] = item
        positions[Int(item.id)] = Int32(position)
    }

    private mutating func moveDown(_ position: Int, _ item: Item, _ positions: inout [Int32]) {
        var position = position
        while true {
            var child = 2 * position + 1
            guard child < items.count else { break }
            if child + 1 < items.count, items[child + 1].precedes(items[child]) { child += 1 }
            guard items[child].precedes(item) else { break }
            items[position] = items[child]
            positions[Int(items[position].id)] = Int32(position)
            position = child
        }
        items[position] = item
        positions[Int(item.id)] = Int32(position)
    }
}
