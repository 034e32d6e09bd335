import Core
import FlowControl
import Scheduling

/// A request's way through flow control, from its arrival there to its end. Belongs to its
/// session.
struct FlowPassage {
    /// What becomes of a request that arrives.
    enum Arrival {
        case goesOn
        case waits
        case rejected(APIError)
    }

    private let controller: FlowController
    private var ticket: FlowTicket?

    /// Before the arrival.
    init(through controller: FlowController) {
        self.controller = controller
    }

    /// A request has come, of so many bytes.
    mutating func enter(
        _ request: SchedulingRequest, byteSize: Int, receivedAt: MonotonicTime
    ) -> Arrival {
        // What has no body costs an engine nothing.
        guard byteSize > 0 else { return .goesOn }
        let admission = controller.admit(
            request, byteSize: byteSize, receivedAt: receivedAt, now: .now)
        switch admission {
        case .passed(let ticket):
            self.ticket = ticket
            return .goesOn
        case .waits(let ticket):
            self.ticket = ticket
            return .waits
        case .rejected(let rejection): return .rejected(rejection.error)
        }
    }

    /// The ticket, if it may have something to say and nobody listens to it.
    func unheardTicket(isWaiting: Bool) -> FlowTicket? {
        guard let ticket, isWaiting || ticket.isRevocable, !ticket.isHeard else { return nil }
        return ticket
    }

    /// What flow control has decided and nobody knows yet.
    func takeSignal() -> FlowTicket.Signal? { ticket?.take() }

    /// An endpoint counts the request in.
    func placed() { ticket?.placed() }

    /// The request is over. `usage` is what it cost, as far as that is known.
    mutating func leave(usage: @autoclosure () -> TokenUsage?, now: MonotonicTime) {
        guard let ticket = ticket.take() else { return }
        ticket.leave(usage: ticket.countsService ? usage() : nil, now: now)
    }
}
