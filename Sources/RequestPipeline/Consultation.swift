import Core
import Scheduling

/// The services that are asked about a request before its decision, one after the other. Belongs
/// to its session.
struct Consultation {
    /// The next one last.
    private var inquiries: [Inquiry] = []

    /// Nobody is to be asked.
    init() {}

    /// Asks whom the router's plugins go by.
    init(about request: SchedulingRequest, within limits: EndpointLimits, by router: Router) {
        inquiries = router.withDesk { desk in
            desk.lay(request, within: limits, at: .now)
            defer { desk.clear() }
            return router.scheduler.inquiries(about: &desk.cycle).reversed()
        }
    }

    /// What to ask next; nil after the last answer.
    var question: ServiceQuestion? { inquiries.last?.question }

    /// The outcome of that question; the request is given what the plugin makes of it.
    mutating func end(_ outcome: ServiceOutcome, for request: inout SchedulingRequest) {
        inquiries.popLast()?.end(outcome, for: &request)
    }

    /// The request is gone.
    mutating func abandon() {
        for inquiry in inquiries { inquiry.abandon() }
        inquiries = []
    }
}
