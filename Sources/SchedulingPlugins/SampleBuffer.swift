/// A bounded buffer of which every element that came since it was last emptied is equally likely
/// to be in (reservoir sampling, Vitter's algorithm R).
struct SampleBuffer<Element> {
    /// Elements that were given up, ever.
    private(set) var droppedCount = 0
    private var elements: [Element] = []
    private var seen = 0
    private let limit: Int

    /// `limit` is at least 1.
    init(limit: Int) {
        self.limit = limit
    }

    /// Adds an element, perhaps in the place of another.
    mutating func add(_ element: Element) {
        seen += 1
        guard elements.count == limit else { return elements.append(element) }
        droppedCount += 1
        let place = Int.random(in: 0..<seen)
        if place < limit { elements[place] = element }
    }

    /// Empties the buffer.
    mutating func take() -> [Element] {
        defer {
            elements = []
            seen = 0
        }
        return elements
    }
}
