import Core
import Synchronization

/// Keeps requests from waiting for a service that is down: after a failure nobody asks for a
/// while, then one, and only an answer lets all ask again. Bounds who asks at once, too.
final class ServiceCircuit: Sendable {
    private struct State {
        var asking = 0
        var failures = 0
        var pausedUntil: MonotonicTime?
    }

    private let limit: Int
    private let state = Mutex(State())

    /// At most `limit` ask at once.
    init(limit: Int) {
        self.limit = limit
    }

    /// Whether to ask now; if so, ``ended(isFailure:at:)`` must follow once.
    func begin(at now: MonotonicTime) -> Bool {
        state.withLock { state in
            if let pausedUntil = state.pausedUntil, now < pausedUntil { return false }
            guard state.asking < (state.failures > 0 ? 1 : limit) else { return false }
            state.asking += 1
            return true
        }
    }

    /// A question is over; `isFailure` is nil if that says nothing about the service.
    func ended(isFailure: Bool?, at now: MonotonicTime) {
        state.withLock { state in
            state.asking -= 1
            switch isFailure {
            case true?:
                // Those that were asking when it went down are one failure together.
                if let pausedUntil = state.pausedUntil, now < pausedUntil { return }
                state.pausedUntil = now + .seconds(1 << min(5, state.failures))
                state.failures += 1
            case false?:
                // An answer that was on its way when others failed does not end the pause.
                if let pausedUntil = state.pausedUntil, now < pausedUntil { return }
                state.failures = 0
                state.pausedUntil = nil
            case nil: break
            }
        }
    }
}
