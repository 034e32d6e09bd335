import Core
import Synchronization

/// Which endpoint each session was sent to last. A binding that nobody uses is forgotten; so is
/// the oldest if there are too many.
final class SessionBindings: Sendable {
    private struct Binding {
        var endpoint: UInt32
        var usedAt: MonotonicTime
    }

    private struct State {
        var bindings: [String: Binding] = [:]
        var sweptAt: MonotonicTime?
    }

    private let timeToLive: Duration
    private let sweepInterval: Duration
    private let maximumCount: Int
    private let state = Mutex(State())

    init(timeToLive: Duration, sweepInterval: Duration, maximumCount: Int = 65536) {
        self.timeToLive = timeToLive
        self.sweepInterval = sweepInterval
        self.maximumCount = maximumCount
    }

    var count: Int { state.withLock { $0.bindings.count } }

    /// The id of the endpoint of a session; nil if it has none. Counts as a use.
    func endpoint(of session: String, at now: MonotonicTime) -> UInt32? {
        state.withLock { state in
            guard let binding = state.bindings[session], now - binding.usedAt < timeToLive else {
                return nil
            }
            state.bindings[session]?.usedAt = now
            return binding.endpoint
        }
    }

    /// Binds a session to an endpoint.
    func bind(_ session: String, to endpoint: UInt32, at now: MonotonicTime) {
        state.withLock { state in
            if now - (state.sweptAt ?? now) >= sweepInterval || state.bindings.count > maximumCount
            {
                sweep(&state, at: now)
            }
            if state.sweptAt == nil { state.sweptAt = now }
            state.bindings[session] = Binding(endpoint: endpoint, usedAt: now)
        }
    }

    private func sweep(_ state: inout State, at now: MonotonicTime) {
        state.sweptAt = now
        state.bindings = state.bindings.filter { now - $0.value.usedAt < timeToLive }
        guard state.bindings.count > maximumCount else { return }
        // A quarter goes at once, so that the next ones cost nothing.
        let ages = state.bindings.values.map(\.usedAt).sorted()
        let limit = ages[state.bindings.count - maximumCount * 3 / 4]
        state.bindings = state.bindings.filter { $0.value.usedAt >= limit }
    }
}
