public import Core

/// Keeps requests away from an endpoint that fails them: closed while all is well; open for a time
/// after failures in a row, twice as long each time; then half open, for one probe, whose fate
/// closes or opens it. A value; the time is given.
public struct CircuitBreaker: Equatable, Sendable {
    /// When it opens, and for how long.
    public struct Rules: Equatable, Sendable {
        /// Failed answers in a row that open it; 0: none does.
        public var failureLimit = 5
        /// For how long at first.
        public var minimumBackoff = Duration.seconds(1)
        /// For how long at most.
        public var maximumBackoff = Duration.seconds(60)
        /// A probe that runs for so long has a connection: longer than it takes to find out that
        /// there is none.
        public var connectionPatience = Duration.seconds(5)

        /// The defaults.
        public init() {}
    }

    /// What went wrong with a request.
    public enum Failure: Equatable, Sendable {
        /// No connection: it opens at once.
        case connection
        /// An answer with a status of 5xx, one that broke off, or none in time.
        case answer
    }

    private enum State: Equatable {
        case closed(failures: Int)
        case open(until: MonotonicTime)
        case halfOpen(probedAt: MonotonicTime?)
    }

    private let rules: Rules
    private var state = State.closed(failures: 0)
    private var openings = 0
    /// What opened it last; nil while it is closed.
    public private(set) var cause: Failure?

    /// Makes one that is closed.
    public init(_ rules: Rules = Rules()) {
        self.rules = rules
    }

    /// Whether requests may go there.
    public var admits: Bool {
        switch state {
        case .closed, .halfOpen(nil): true
        case .open, .halfOpen(.some): false
        }
    }

    /// Whether it is closed and no failure counts.
    public var isClean: Bool { state == .closed(failures: 0) }

    /// A request goes there. Returns whether it is the probe.
    public mutating func requestStarted(at now: MonotonicTime) -> Bool {
        guard case .halfOpen(nil) = state else { return false }
        state = .halfOpen(probedAt: now)
        return true
    }

    /// A request failed. While the circuit is open that is one from before, and says nothing new.
    public mutating func failed(_ failure: Failure, at now: MonotonicTime) {
        switch state {
        case .closed(let failures):
            let isLast = rules.failureLimit > 0 && failures + 1 >= rules.failureLimit
            guard failure == .connection || isLast else {
                return state = .closed(failures: failures + 1)
            }
            open(for: failure, at: now)
        case .halfOpen: open(for: failure, at: now)
        case .open: break
        }
    }

    /// A request succeeded.
    public mutating func succeeded() {
        if case .open = state { return }
        state = .closed(failures: 0)
        openings = 0
        cause = nil
    }

    /// The probe is over. If it told nothing, another may try.
    public mutating func probeEnded() {
        if case .halfOpen(.some) = state { state = .halfOpen(probedAt: nil) }
    }

    /// There is reason to believe that the endpoint lives. Once the time is up, a probe may try.
    ///
    /// Where connections were the trouble, one that holds is enough: the answer may take minutes.
    public mutating func letProbe(at now: MonotonicTime) {
        switch state {
        case .open(let until) where now >= until: state = .halfOpen(probedAt: nil)
        case .halfOpen(let since?)
        where cause == .connection && now - since >= rules.connectionPatience:
            succeeded()
        default: break
        }
    }

    private mutating func open(for failure: Failure, at now: MonotonicTime) {
        // Beyond 30 the duration would leave its range; any limit is reached before.
        let backoff = rules.minimumBackoff * (1 << min(openings, 30))
        state = .open(until: now + min(backoff, rules.maximumBackoff))
        openings += 1
        cause = failure
    }
}
