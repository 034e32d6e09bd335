import Core
import FlowControl
import Scheduling
import Synchronization

/// A request's place in flow control, while it waits and while it is served. Any thread.
public final class FlowTicket: Sendable {
    /// What flow control has decided.
    enum Signal: Sendable {
        case dispatched
        case rejected(FlowRejection)
    }

    let id: FlowRequestID
    let labels: FlowMetrics.Labels
    let enqueuedAt: MonotonicTime
    /// Whether it may be stopped while it is served.
    let isRevocable: Bool
    /// Whether its band wants to know what it cost.
    let countsService: Bool
    /// What it adds to the use of an endpoint.
    let use: Double

    private struct State {
        var signal: Signal?
        var listener: (@Sendable () -> Void)?
    }

    private let controller: FlowController
    private let state = Mutex(State())
    private let isOnItsWay = Atomic<Bool>(false)
    private let isOver = Atomic<Bool>(false)

    init(
        _ id: FlowRequestID, of controller: FlowController, labels: FlowMetrics.Labels,
        enqueuedAt: MonotonicTime, isRevocable: Bool, countsService: Bool, use: Double
    ) {
        self.id = id
        self.controller = controller
        self.labels = labels
        self.enqueuedAt = enqueuedAt
        self.isRevocable = isRevocable
        self.countsService = countsService
        self.use = use
    }

    /// Whether ``listen(_:)`` was called.
    public var isHeard: Bool { state.withLock { $0.listener != nil } }

    /// Calls `listener`, on any thread, whenever ``RequestSession/signalled()`` has something to
    /// do; at once if it has already.
    public func listen(_ listener: @escaping @Sendable () -> Void) {
        let isLate = state.withLock { state in
            state.listener = listener
            return state.signal != nil
        }
        if isLate { listener() }
    }

    /// The last decision that was not taken yet.
    func take() -> Signal? {
        state.withLock { state in
            defer { state.signal = nil }
            return state.signal
        }
    }

    func signal(_ signal: Signal) {
        let listener = state.withLock { state in
            state.signal = signal
            return state.listener
        }
        listener?()
    }

    /// The request was let through and is at no endpoint yet.
    func started() {
        isOnItsWay.store(true, ordering: .relaxed)
        controller.unplaced.add(use)
    }

    /// An endpoint counts the request among those in flight now, or nobody ever will.
    func placed() {
        guard isOnItsWay.exchange(false, ordering: .relaxed) else { return }
        controller.unplaced.subtract(use)
    }

    /// The request is no more in the queues, nor in flight: only the first call is true.
    func end() -> Bool { !isOver.exchange(true, ordering: .relaxed) }

    /// The request is over. `usage` is what it cost, if that is known.
    func leave(usage: TokenUsage? = nil, now: MonotonicTime) {
        placed()
        let service = usage.map {
            LeastAttainedService.service(
                inputTokens: $0.promptTokens ?? 0, outputTokens: $0.completionTokens ?? 0)
        }
        if end() { controller.leave(self, service: service, now: now) }
    }
}
