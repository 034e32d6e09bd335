package import Core
package import KVIndex

/// The protocol by which routers share their indexes, without sockets: frames and events come in,
/// frames and changes of the index go out. Loop-bound.
///
/// A connection has two ends: the router that opened it *follows*, the other one *tells*. A router
/// tells of endpoints whose events it gets itself, and follows for the others: so nothing goes in
/// circles. For each endpoint it follows one router: of those that offer it the one with the lowest
/// number, and as long as it does. An endpoint with events is followed only until what others knew of it is known.
///
/// What is to be sent is not queued but asked for, by ``nextFrame(for:at:)``, when the connection
/// can take it: changes wait in the bounded log of their endpoint, and a follower that is too slow
/// for the log is told of all blocks again.
package final class ReplicaNode {
    package struct Configuration {
        package var router = UInt64.random(in: 1 ... .max)
        package var epoch = UInt64.random(in: 1 ... .max)
        package var keys: ReplicaKeys
        package var maximumFrameBytes: UInt32 = 64 << 10
        /// Something is sent at least this often.
        package var heartbeat = Duration.seconds(2)
        /// A connection on which nothing is heard for so long is given up.
        package var silenceLimit = Duration.seconds(10)
        /// How long an endpoint with events waits for somebody who knew it before.
        package var loadingPatience = Duration.seconds(5)
        /// Changes that the log of an endpoint keeps.
        package var maximumLogCount = 1 << 14
        /// Whether routers tell each other what they have in flight.
        package var sharesLoad = true
        /// How often all of it is told again.
        package var loadRefresh = Duration.seconds(1)
        /// A router that is silent for so long has no load.
        package var loadLease = Duration.seconds(3)

        package init(keys: ReplicaKeys) {
            self.keys = keys
        }
    }

    /// What follows from a call.
    package enum Effect {
        /// The index must take over blocks.
        case added([SharedBlock], to: String)
        /// One store of each must be taken back.
        case removed([SharedBlock], from: String)
        /// Other routers' load has changed at these endpoints.
        case loads([String: InFlightLoad])
        /// The service that other routers gave these flows has changed.
        case services([FlowID: Double])
        /// There is something to send.
        case ready(Int)
        /// The other side of a connection is a router that can be followed.
        case greeted(Int, router: UInt64)
        /// The connection must be closed. It is forgotten already.
        case close(Int, ReplicaError)
    }

    /// What happened, since the beginning.
    package struct Counters {
        package var snapshotsTold = 0
        package var snapshotsRead = 0
        package var logOverruns = 0
    }

    static let maximumEndpointCount = 1 << 14
    /// They fit into any follower's frames.
    static let maximumLastChangeCount = 128

    package let configuration: Configuration
    package internal(set) var counters = Counters()
    var endpoints: [String: ReplicaEndpoint] = [:]
    var followers: [Int: FollowerSession] = [:]
    var tellers: [Int: TellerSession] = [:]
    var effects: [Effect] = []
    var loadReporter = LoadReporter()
    package internal(set) var loadLedger: LoadLedger
    var loadRefreshedAt: MonotonicTime?
    /// How many logs there were.
    private var logCount: UInt64 = 0

    package init(_ configuration: Configuration) {
        self.configuration = configuration
        loadLedger = LoadLedger(lease: configuration.loadLease)
    }

    /// What followed from the calls since the last one.
    package func takeEffects() -> [Effect] {
        defer { effects = [] }
        return effects
    }

    /// Routers whose greeting was heard: followed ones, and followers.
    package var tellerCount: Int { tellers.values.count { $0.greeting != nil } }
    package var followerCount: Int { followers.values.count { $0.greeting != nil } }

    /// When something was heard last on a connection to a router that can be followed.
    package func heardAt(_ id: Int) -> MonotonicTime? {
        tellers[id].flatMap { $0.greeting == nil ? nil : $0.pulse.heardAt }
    }

    /// Changes and blocks that the follower furthest behind has yet to be sent.
    package var lag: Int { followers.values.map(lag(of:)).max() ?? 0 }

    /// Whether every endpoint is known as far as anybody knows it.
    package var isAgreed: Bool { endpoints.values.allSatisfy(\.isAgreed) }

    /// Whether this router offers others to follow it for an endpoint.
    package func isOffered(_ name: String) -> Bool { endpoints[name]?.isOffered == true }

    // MARK: - The pool, and the events of its engines

    /// The endpoints.
    package func update(_ names: Set<String>) {
        for (name, endpoint) in endpoints where !names.contains(name) {
            endpoints[name] = nil
            unfollow(endpoint)
            if endpoint.isOffered { withdraw(endpoint) }
        }
        for name in names where endpoints[name] == nil {
            guard name.utf8.count <= ReplicaFrame.maximumTextBytes else { continue }
            let endpoint = ReplicaEndpoint(name, log: makeLog())
            endpoints[name] = endpoint
            choose(for: endpoint)
        }
    }

    private func makeLog() -> ReplicaLog {
        logCount += 1
        return ReplicaLog(after: logCount << 40, maximumCount: configuration.maximumLogCount)
    }

    /// An engine's events come no more, until some are applied: the router follows others, and
    /// offers the endpoint to nobody.
    package func lost(_ name: String) {
        guard let endpoint = endpoints[name], endpoint.table.isDirect else { return }
        unfollow(endpoint)
        if endpoint.isOffered { withdraw(endpoint) }
        let surplus = endpoint.table.loseEvents()
        if !surplus.isEmpty { effects.append(.removed(surplus, from: name)) }
        endpoint.directSince = nil
        // What is learnt from others from now on is not in the log, and not after what was learnt
        // from them before the events came.
        endpoint.log = makeLog()
        endpoint.cursor = nil
        choose(for: endpoint)
    }

    /// What an engine's events changed, if anything.
    package func applied(_ changes: [BlockChange], at name: String, now: MonotonicTime) {
        guard let endpoint = endpoints[name], !changes.isEmpty || !endpoint.table.isDirect
        else { return }
        let wasOffered = endpoint.isOffered
        let isFirst = !endpoint.table.isDirect
        if isFirst {
            endpoint.directSince = now
            // What the followed router told until now may lag behind these events.
            if endpoint.following != nil { endpoint.table.setUnloaded() }
            endpoint.table.hearEvents()
        }
        var doubled: [SharedBlock] = []
        for change in changes {
            switch endpoint.table.apply(change) {
            case .none: break
            case .stored(let block): endpoint.log.append(.stored(block))
            case .removed(let block): endpoint.log.append(.removed(block))
            case .doubled(let block): doubled.append(block)
            case .cleared: endpoint.log.append(.cleared)
            }
        }
        if !doubled.isEmpty { effects.append(.removed(doubled, from: name)) }
        if isFirst { unfollow(endpoint) }
        if wasOffered {
            for follower in followers.values { tellChanges(of: name, to: follower) }
        } else if endpoint.isOffered {
            loaded(endpoint)
        } else {
            choose(for: endpoint)
        }
    }

    // MARK: - Connections

    /// A connection was opened by this router.
    package func connected(_ id: Int, at now: MonotonicTime) {
        let teller = TellerSession(id, at: now)
        teller.outbox.append(.greeting(greeting))
        tellers[id] = teller
        effects.append(.ready(id))
    }

    /// A connection was opened by another one, which takes loads or does not.
    package func accepted(_ id: Int, takesLoad: Bool = false, at now: MonotonicTime) {
        let follower = FollowerSession(id, at: now)
        if takesLoad, configuration.sharesLoad { follower.load = LoadSubscription() }
        followers[id] = follower
    }

    /// A connection is gone.
    package func closed(_ id: Int) {
        followers[id] = nil
        guard tellers.removeValue(forKey: id) != nil else { return }
        for endpoint in endpoints.values where endpoint.following?.connection == id {
            unfollow(endpoint)
            choose(for: endpoint)
        }
    }

    /// Time passes.
    package func tick(_ now: MonotonicTime) {
        for follower in followers.values { beat(follower.id, &follower.pulse, now) }
        for teller in tellers.values { beat(teller.id, &teller.pulse, now) }
        expireLoads(at: now)
        for endpoint in endpoints.values where endpoint.table.isDirect && !endpoint.table.isLoaded {
            guard endpoint.following == nil, let since = endpoint.directSince,
                now - since >= configuration.loadingPatience
            else { continue }
            endpoint.table.setLoaded()
            loaded(endpoint)
        }
    }

    private func beat(_ id: Int, _ pulse: inout ReplicaPulse, _ now: MonotonicTime) {
        if now - pulse.heardAt >= configuration.silenceLimit { return fail(id, .silent) }
        if now - pulse.sentAt >= configuration.heartbeat {
            pulse.isHeartbeatDue = true
            effects.append(.ready(id))
        }
    }

    /// A frame came.
    package func received(_ bytes: UnsafeRawBufferPointer, on id: Int, at now: MonotonicTime) {
        do throws(ReplicaError) {
            guard bytes.count <= configuration.maximumFrameBytes else {
                throw .tooMany("bytes of a frame: \(bytes.count)")
            }
            if let follower = followers[id] {
                follower.pulse.heardAt = now
                try received(ReplicaFrame(decoding: bytes), from: follower)
            } else if let teller = tellers[id] {
                teller.pulse.heardAt = now
                try received(ReplicaFrame(decoding: bytes), from: teller, at: now)
            }
        } catch {
            fail(id, error)
        }
    }

    func fail(_ id: Int, _ error: ReplicaError) {
        closed(id)
        effects.append(.close(id, error))
    }

    /// The next frame to be sent, if there is one.
    package func nextFrame(for id: Int, at now: MonotonicTime) -> ReplicaFrame? {
        if let follower = followers[id] {
            guard follower.greeting != nil else { return nil }
            return frame(nextFrame(for: follower, at: now), &follower.pulse, now)
        }
        guard let teller = tellers[id] else { return nil }
        return frame(teller.outbox.popFirst(), &teller.pulse, now)
    }

    private func frame(
        _ next: ReplicaFrame?, _ pulse: inout ReplicaPulse, _ now: MonotonicTime
    ) -> ReplicaFrame? {
        guard let frame = next ?? (pulse.isHeartbeatDue ? .heartbeat : nil) else { return nil }
        pulse.isHeartbeatDue = false
        pulse.sentAt = now
        return frame
    }

    var greeting: ReplicaGreeting {
        ReplicaGreeting(
            router: configuration.router, epoch: configuration.epoch,
            maximumFrameBytes: configuration.maximumFrameBytes, keys: configuration.keys)
    }

    func check(_ greeting: ReplicaGreeting) throws(ReplicaError) {
        guard greeting.keys == configuration.keys else {
            throw .keys(ours: "\(configuration.keys)", theirs: "\(greeting.keys)")
        }
        guard greeting.maximumFrameBytes >= ReplicaFrame.minimumFrameBytes else {
            throw .unexpected("a longest frame of \(greeting.maximumFrameBytes) bytes")
        }
    }
}

extension ReplicaFrame {
    /// The name of its kind.
    var kind: String {
        switch self {
        case .greeting: "greeting"
        case .heartbeat: "heartbeat"
        case .follow: "follow"
        case .unfollow: "unfollow"
        case .offer: "offer"
        case .begin: "begin"
        case .blocks: "blocks"
        case .end: "end"
        case .changes: "changes"
        case .load: "load"
        }
    }
}
