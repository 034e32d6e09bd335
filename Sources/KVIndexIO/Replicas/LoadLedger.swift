package import Core

/// The load of other routers, as far as they told of it lately. No I/O, no clock. Loop-bound.
package struct LoadLedger {
    private struct Peer {
        let epoch: UInt64
        var heardAt: MonotonicTime
        var floor: UInt64 = 0
        var loads: [String: (sequence: UInt64, load: InFlightLoad)] = [:]
        var services: [FlowID: (sequence: UInt64, service: AttainedService, at: MonotonicTime)] =
            [:]
    }

    private let lease: Duration
    private var peers: [UInt64: Peer] = [:]
    private var sums: [String: InFlightLoad] = [:]
    private var changedEndpoints: Set<String> = []
    private var changedFlows: Set<FlowID> = []

    /// A router that is silent for `lease` has no load.
    package init(lease: Duration) {
        self.lease = lease
    }

    /// Routers whose load counts.
    package var peerCount: Int { peers.count }

    /// How long ago the one of them that was silent longest told of its load.
    package func age(at now: MonotonicTime) -> Duration {
        peers.values.map { now - $0.heardAt }.max() ?? .zero
    }

    /// Takes a report. Those that come late or twice change nothing that is newer.
    package mutating func received(
        _ report: LoadReport, from router: UInt64, epoch: UInt64, at now: MonotonicTime
    ) throws(ReplicaError) {
        if peers[router]?.epoch != epoch { forget(router) }
        // Taken out, so that its tables are not copied.
        var peer = peers.removeValue(forKey: router) ?? Peer(epoch: epoch, heardAt: now)
        defer { peers[router] = peer }
        peer.heardAt = max(peer.heardAt, now)
        // All that it says was told again.
        guard report.sequence >= peer.floor else { return }
        for endpoint in report.endpoints {
            let old = peer.loads[endpoint.name]
            if let old, old.sequence >= report.sequence { continue }
            guard old != nil || peer.loads.count < ReplicaNode.maximumEndpointCount else {
                throw .tooMany("endpoints with a load")
            }
            peer.loads[endpoint.name] = (report.sequence, endpoint.load)
            replace(old?.load ?? .none, by: endpoint.load, at: endpoint.name)
        }
        for service in report.services {
            let old = peer.services[service.flow]
            if let old, old.sequence >= report.sequence { continue }
            guard old != nil || peer.services.count < LoadReport.maximumFlowCount else {
                throw .tooMany("flows")
            }
            peer.services[service.flow] = (report.sequence, service, now)
            changedFlows.insert(service.flow)
        }
        guard report.floor > peer.floor else { return }
        peer.floor = report.floor
        for (name, entry) in peer.loads where entry.sequence < report.floor {
            peer.loads[name] = nil
            replace(entry.load, by: .none, at: name)
        }
        for (flow, entry) in peer.services where entry.sequence < report.floor {
            peer.services[flow] = nil
            changedFlows.insert(flow)
        }
    }

    /// Forgets routers that were silent for too long.
    package mutating func expire(at now: MonotonicTime) {
        for (router, peer) in peers where now - peer.heardAt >= lease { forget(router) }
    }

    /// What routers have together where that has changed since the last call: at endpoints, and
    /// the service of flows.
    package mutating func takeChanges(
        at now: MonotonicTime
    ) -> (loads: [String: InFlightLoad], services: [FlowID: Double]) {
        defer {
            changedEndpoints.removeAll(keepingCapacity: true)
            changedFlows.removeAll(keepingCapacity: true)
        }
        var loads: [String: InFlightLoad] = [:]
        for name in changedEndpoints { loads[name] = sums[name, default: .none] }
        var services: [FlowID: Double] = [:]
        for flow in changedFlows {
            services[flow] = peers.values.reduce(0) { sum, peer in
                guard let (_, service, at) = peer.services[flow] else { return sum }
                return sum + service.aged(by: now - at).tokens
            }
        }
        return (loads, services)
    }

    private mutating func forget(_ router: UInt64) {
        guard let peer = peers.removeValue(forKey: router) else { return }
        for (name, entry) in peer.loads { replace(entry.load, by: .none, at: name) }
        changedFlows.formUnion(peer.services.keys)
    }

    private mutating func replace(_ old: InFlightLoad, by new: InFlightLoad, at name: String) {
        guard old != new else { return }
        let sum = sums[name, default: .none] - old + new
        sums[name] = sum == .none ? nil : sum
        changedEndpoints.insert(name)
    }
}
