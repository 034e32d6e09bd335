import Core

/// What one follower has yet to be told of this router's load.
struct LoadSubscription {
    /// What has changed since it was told, each once: told is what there is when its turn comes.
    fileprivate var pending = Fifo<LoadKey>()
    fileprivate var isPending: Set<LoadKey> = []
    /// A report is due even if nothing has changed.
    fileprivate var isDue = false
    /// Everything is being told again: from which report on, and how much is left.
    fileprivate var round: (start: UInt64, left: Int)?
    fileprivate var floor: UInt64 = 0

    fileprivate mutating func add(_ key: LoadKey) -> Bool {
        guard isPending.insert(key).inserted else { return false }
        pending.append(key)
        return true
    }

    fileprivate mutating func pop() {
        if let key = pending.popFirst() { isPending.remove(key) }
    }
}

/// This router's load, as followers are told of it. No I/O, no clock. Loop-bound.
///
/// Values are absolute and told when they change, and all of them again from time to time: so a
/// report that is lost, doubled or late does no lasting harm. What waits for a follower is a set of
/// names, not a queue of values.
struct LoadReporter {
    private var reported: [EndpointInFlight] = []
    private var loads: [String: InFlightLoad] = [:]
    private var services: [FlowID: (service: AttainedService, at: MonotonicTime)] = [:]
    private var sequence: UInt64 = 0

    /// Takes what there is at each endpoint. Returns what has changed.
    mutating func report(_ endpoints: [EndpointInFlight]) -> [LoadKey] {
        guard endpoints != reported else { return [] }
        var changed: [LoadKey] = []
        let isSamePool = endpoints.elementsEqual(reported) { $0.name == $1.name }
        if !isSamePool {
            let names = Set(endpoints.lazy.map(\.name))
            for name in loads.keys where !names.contains(name) {
                changed.append(.endpoint(name))
                loads[name] = nil
            }
        }
        for (index, endpoint) in endpoints.prefix(ReplicaNode.maximumEndpointCount).enumerated() {
            guard !isSamePool || reported[index] != endpoint,
                endpoint.name.utf8.count <= ReplicaFrame.maximumTextBytes,
                loads[endpoint.name, default: .none] != endpoint.load
            else { continue }
            loads[endpoint.name] = endpoint.load == .none ? nil : endpoint.load
            changed.append(.endpoint(endpoint.name))
        }
        reported = endpoints
        return changed
    }

    /// Takes the service of flows that got some; of all flows if `isWhole`. Returns what has
    /// changed.
    mutating func report(
        _ new: [AttainedService], isWhole: Bool, at now: MonotonicTime
    ) -> [LoadKey] {
        if isWhole { services.removeAll(keepingCapacity: true) }
        var changed: [LoadKey] = []
        for service in new where service.flow.fairnessID.utf8.count <= ReplicaFrame.maximumTextBytes
        {
            guard
                services[service.flow] != nil || services.count < LoadReport.maximumFlowCount,
                !isWhole || service.tokens >= LoadReport.leastService
            else { continue }
            services[service.flow] = (service, now)
            changed.append(.flow(service.flow))
        }
        return changed
    }

    /// Notes for a follower what has changed. Whether that is news to it.
    func note(_ changed: [LoadKey], for follower: inout LoadSubscription) -> Bool {
        var isNews = false
        for key in changed where follower.add(key) { isNews = true }
        return isNews
    }

    /// Begins to tell a follower everything again, unless that goes on already.
    func refresh(_ follower: inout LoadSubscription) {
        follower.isDue = true
        guard follower.round == nil else { return }
        for name in loads.keys { _ = follower.add(.endpoint(name)) }
        for flow in services.keys { _ = follower.add(.flow(flow)) }
        follower.round = (sequence + 1, follower.pending.count)
    }

    /// The next report for a follower, of `limit` bytes at most; nil if there is nothing to tell.
    mutating func next(
        for follower: inout LoadSubscription, limit: Int, at now: MonotonicTime
    ) -> LoadReport? {
        guard follower.isDue || !follower.pending.isEmpty else { return nil }
        follower.isDue = false
        sequence += 1
        var report = LoadReport(sequence: sequence, floor: 0)
        var bytes = LoadReport.headBytes
        while let key = follower.pending.first {
            switch key {
            case .endpoint(let name):
                let entry = EndpointInFlight(name: name, load: loads[name, default: .none])
                bytes += LoadReport.bytes(of: entry)
                if bytes <= limit { report.endpoints.append(entry) }
            case .flow(let flow):
                let entry = service(of: flow, at: now)
                bytes += LoadReport.bytes(of: entry)
                if bytes <= limit { report.services.append(entry) }
            }
            guard bytes <= limit else { break }
            follower.pop()
            follower.round?.left -= 1
        }
        if let round = follower.round, round.left <= 0 {
            follower.floor = round.start
            follower.round = nil
        }
        report.floor = follower.floor
        return report
    }

    private func service(of flow: FlowID, at now: MonotonicTime) -> AttainedService {
        guard let (service, at) = services[flow] else {
            return AttainedService(flow: flow, tokens: 0, halfLifeSeconds: 1)
        }
        return service.aged(by: now - at)
    }
}
