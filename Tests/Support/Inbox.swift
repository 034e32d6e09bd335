import Synchronization

/// Values on their way from a loop to a test. One reader at a time.
package final class Inbox<Value: Sendable>: Sendable {
    private struct State {
        var values: [Value] = []
        var waiting: CheckedContinuation<Value, any Error>?
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

    /// Takes the oldest value, or waits for one; the time limit of the test ends the wait.
    package func next() async throws -> Value {
        try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let result = state.withLock { state -> Result<Value, any Error>? in
                    if !state.values.isEmpty { return .success(state.values.removeFirst()) }
                    if Task.isCancelled { return .failure(CancellationError()) }
                    state.waiting = continuation
                    return nil
                }
                if let result { continuation.resume(with: result) }
            }
        } onCancel: {
            let waiting = state.withLock { state in
                defer { state.waiting = nil }
                return state.waiting
            }
            waiting?.resume(throwing: CancellationError())
        }
    }
}
