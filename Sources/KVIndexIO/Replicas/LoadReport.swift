package import Core

/// What a router tells of its load in one frame. All values are absolute.
package struct LoadReport: Hashable {
    /// Grows with each report of a router, whoever it is for.
    package var sequence: UInt64
    /// Whatever is not nothing was told in reports from this one on: what was told in older ones
    /// only is over.
    package var floor: UInt64
    package var endpoints: [EndpointInFlight]
    package var services: [AttainedService]

    package init(
        sequence: UInt64, floor: UInt64, endpoints: [EndpointInFlight] = [],
        services: [AttainedService] = []
    ) {
        self.sequence = sequence
        self.floor = floor
        self.endpoints = endpoints
        self.services = services
    }

    /// Flows of which a router tells, and takes.
    static let maximumFlowCount = 4096
    /// Larger counts are none: sums and products of them must not overflow.
    static let maximumCount = 1 << 40
    static let serviceRange = 0...0x1p60
    static let halfLifeRange = 0x1p-20...0x1p40
    static let headBytes = 17

    /// An entry's bytes in a frame.
    static func bytes(of endpoint: EndpointInFlight) -> Int { 23 + endpoint.name.utf8.count }
    static func bytes(of service: AttainedService) -> Int {
        27 + service.flow.fairnessID.utf8.count
    }

    /// A service that is as good as none.
    static let leastService = 0.5
}

/// What of a router's load is told for itself.
enum LoadKey: Hashable {
    case endpoint(String)
    case flow(FlowID)
}
