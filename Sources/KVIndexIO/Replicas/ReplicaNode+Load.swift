package import Core

// What routers have in flight. A router tells its own to whoever follows it and asked for that;
// nobody passes on another's.
extension ReplicaNode {
    /// Whether everything is to be told again, and all flows are to be reported.
    package func isLoadRefreshDue(at now: MonotonicTime) -> Bool {
        guard let loadRefreshedAt else { return true }
        return now - loadRefreshedAt >= configuration.loadRefresh
    }

    /// What this router has in flight, and the service that flows got: all of them if
    /// ``isLoadRefreshDue(at:)``, else those that got some.
    package func report(
        _ endpoints: [EndpointInFlight], _ services: [AttainedService], at now: MonotonicTime
    ) {
        guard configuration.sharesLoad else { return }
        let isRefresh = isLoadRefreshDue(at: now)
        if isRefresh { loadRefreshedAt = now }
        var changed = loadReporter.report(endpoints)
        changed += loadReporter.report(services, isWhole: isRefresh, at: now)
        if !changed.isEmpty || isRefresh {
            for follower in followers.values where follower.greeting != nil {
                tellLoad(changed, isRefresh: isRefresh, to: follower)
            }
        }
        expireLoads(at: now)
    }

    private func tellLoad(_ changed: [LoadKey], isRefresh: Bool, to follower: FollowerSession) {
        guard var load = follower.load else { return }
        let isNews = loadReporter.note(changed, for: &load)
        if isRefresh { loadReporter.refresh(&load) }
        follower.load = load
        if isNews || isRefresh { effects.append(.ready(follower.id)) }
    }

    /// A follower has greeted; it is told everything, if it wants to know.
    func beginLoad(for follower: FollowerSession) {
        guard follower.load != nil else { return }
        tellLoad([], isRefresh: true, to: follower)
    }

    func loadFrame(
        for follower: FollowerSession, _ limit: Int, at now: MonotonicTime
    ) -> ReplicaFrame? {
        guard var load = follower.load else { return nil }
        follower.load = nil
        defer { follower.load = load }
        return loadReporter.next(for: &load, limit: limit, at: now).map { .load($0) }
    }

    func received(
        _ report: LoadReport, from peer: ReplicaGreeting, at now: MonotonicTime
    ) throws(ReplicaError) {
        guard configuration.sharesLoad else { throw .unexpected("a load that was not asked for") }
        defer { showLoads(at: now) }
        try loadLedger.received(report, from: peer.router, epoch: peer.epoch, at: now)
    }

    func expireLoads(at now: MonotonicTime) {
        loadLedger.expire(at: now)
        showLoads(at: now)
    }

    private func showLoads(at now: MonotonicTime) {
        let (loads, services) = loadLedger.takeChanges(at: now)
        if !loads.isEmpty { effects.append(.loads(loads)) }
        if !services.isEmpty { effects.append(.services(services)) }
    }
}
