import Core
import ModelServers
import Scheduling

/// Where a request may not go, whatever plugins say.
struct EndpointLimits {
    /// Only these may be picked; nil: all.
    var subset: [SocketAddress]?
    /// The endpoints that could not be connected to.
    var failed: [UInt32] = []

    func allow(_ endpoint: Endpoint) -> Bool {
        !failed.contains(endpoint.id) && subset?.contains(endpoint.server.address) ?? true
    }
}

extension Desk {
    /// Puts a request on the desk, and the endpoints of its model that it may go to.
    func lay(_ request: SchedulingRequest, within limits: EndpointLimits, at now: MonotonicTime) {
        let serving = snapshot.endpointIDs(serving: request.targetModel)
        lay(request, at: now) { member in
            limits.allow(member.endpoint) && serving?.contains(member.endpoint.id) ?? true
        }
    }
}
