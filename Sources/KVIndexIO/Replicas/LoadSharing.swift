public import Core

/// A router's load, which ``ReplicaIndexBackend`` tells other routers of, and where it puts theirs.
/// Called on the loop of the sharing, many times a second.
public protocol LoadSharing: Sendable {
    /// What this router has in flight, by endpoint.
    func endpointsInFlight() -> [EndpointInFlight]
    /// The service of flows as of now: of all, or of those that got some since the last call.
    func attainedServices(all: Bool, at now: MonotonicTime) -> [AttainedService]
    /// What other routers have in flight together, at the endpoints where that has changed.
    func show(_ loads: [String: InFlightLoad])
    /// The service that other routers gave flows together, in tokens as of now, where that has
    /// changed.
    func show(_ services: [FlowID: Double], at now: MonotonicTime)
}
