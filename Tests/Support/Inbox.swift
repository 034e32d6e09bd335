import Synchronization

/// Values on their way from a loop to a test. One reader at a time.
package final class Inbox<Value: Sendable>: Sendable {
    private struct State {
        var values: [Value] = []
        var waiting: CheckedContinuation<Value, Never>?
    }

    private let state = Mutex(State())

    /// An empty one.
    package init() {}

    /// How many values wait to be taken.
    package var count: Int { state.withLock { $0.values.count } }

    /// Adds a value.
    package func put(_ value: Value) {
        let waiting = state.withLock { state in
            if state.waiting == nil { state.values.append(value) }
            defer { state.waiting = nil }
            return state.waiting
        }
        waiting?.resume(returning: value)
    }

    /// Takes the oldest value, or waits for one.
    package func next() async -> Value {
        await withCheckedContinuation { continuation in
            let value = state.withLock { state -> Value? in
                if state.values.isEmpty {
                    state.waiting = continuation
                    return nil
                }
                return state.values.removeFirst()
            }
            if let value { continuation.resume(returning: value) }
        }
    }
}
