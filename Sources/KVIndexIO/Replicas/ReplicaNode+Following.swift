import Core

// What is learnt from routers that this one follows.
extension ReplicaNode {
    func received(
        _ frame: ReplicaFrame, from teller: TellerSession, at now: MonotonicTime
    ) throws(ReplicaError) {
        guard let peer = teller.greeting else {
            guard case .greeting(let greeting) = frame else {
                throw .unexpected("\(frame.kind) before the greeting")
            }
            return try greeted(greeting, by: teller)
        }
        switch frame {
        case .heartbeat: break
        case .offer(let name, true):
            guard teller.offers.count < Self.maximumEndpointCount else {
                throw .tooMany("endpoints")
            }
            teller.offers.insert(name)
            if let endpoint = endpoints[name] { choose(for: endpoint) }
        case .offer(let name, false):
            teller.offers.remove(name)
            guard let endpoint = endpoints[name], endpoint.following?.connection == teller.id
            else { break }
            unfollow(endpoint)
            choose(for: endpoint)
        case .begin(let number, let position):
            try follow(number, of: teller) { (endpoint, following) throws(ReplicaError) in
                endpoint.cursor = nil
                endpoint.table.beginReading()
                following.stage = .reading(position: position)
            }
        case .blocks(let number, let blocks):
            try follow(number, of: teller) { (endpoint, following) throws(ReplicaError) in
                guard case .reading = following.stage else {
                    throw .unexpected("blocks before their beginning")
                }
                let new = endpoint.table.read(blocks).new
                if !new.isEmpty { effects.append(.added(new, to: endpoint.name)) }
            }
        case .end(let number, let position):
            try follow(number, of: teller) { (endpoint, following) throws(ReplicaError) in
                guard case .reading(let start) = following.stage, start <= position else {
                    throw .unexpected("the end of blocks at \(position)")
                }
                counters.snapshotsRead += 1
                remove(endpoint.table.unread(), from: endpoint)
                endpoint.table.endReading()
                endpoint.cursor = (peer.epoch, start)
                following.stage = .live
                following.loadsAt = position
            }
        case .changes(let number, let position, let changes):
            try follow(number, of: teller) { (endpoint, following) throws(ReplicaError) in
                if case .reading = following.stage { throw .unexpected("changes among blocks") }
                guard let cursor = endpoint.cursor, cursor.epoch == peer.epoch,
                    position == cursor.position &+ UInt64(changes.count)
                else { throw .unexpected("changes up to \(position)") }
                take(changes, at: endpoint)
                endpoint.cursor = (peer.epoch, position)
                following.stage = .live
            }
        case .load(let report): try received(report, from: peer, at: now)
        default: throw .unexpected("\(frame.kind) of a router that is followed")
        }
    }

    private func greeted(_ greeting: ReplicaGreeting, by teller: TellerSession)
        throws(ReplicaError)
    {
        try check(greeting)
        guard greeting.router != configuration.router else { throw .itself }
        guard !tellers.values.contains(where: { $0.greeting?.router == greeting.router }) else {
            throw .duplicate(greeting.router)
        }
        teller.greeting = greeting
        effects.append(.greeted(teller.id, router: greeting.router))
    }

    /// Takes a frame of an endpoint that is followed; those of one that was are passed over.
    private func follow(
        _ number: UInt32, of teller: TellerSession,
        _ body: (ReplicaEndpoint, inout ReplicaEndpoint.Following) throws(ReplicaError) -> Void
    ) throws(ReplicaError) {
        guard number < teller.nextNumber else { throw .unexpected("the number \(number)") }
        guard let name = teller.endpoints[number], let endpoint = endpoints[name],
            var following = endpoint.following
        else { return }
        try body(endpoint, &following)
        endpoint.following = following
        if case .live = following.stage, let cursor = endpoint.cursor,
            cursor.position >= following.loadsAt, !endpoint.table.isLoaded
        {
            endpoint.table.setLoaded()
            loaded(endpoint)
        }
    }

    private func take(_ changes: [ReplicaChange], at endpoint: ReplicaEndpoint) {
        var rest = changes[...]
        while let first = rest.first {
            switch first {
            case .stored:
                let run = rest.prefix { if case .stored = $0 { true } else { false } }
                let new = endpoint.table.follow(stored: run.compactMap(\.block))
                if !new.isEmpty { effects.append(.added(new, to: endpoint.name)) }
                rest = rest.dropFirst(run.count)
            case .removed:
                let run = rest.prefix { if case .removed = $0 { true } else { false } }
                remove(run.compactMap(\.block), from: endpoint)
                rest = rest.dropFirst(run.count)
            case .cleared:
                remove(endpoint.table.held(), from: endpoint)
                rest.removeFirst()
            }
        }
    }

    private func remove(_ blocks: [SharedBlock], from endpoint: ReplicaEndpoint) {
        let gone = endpoint.table.follow(removed: blocks)
        if !gone.isEmpty { effects.append(.removed(gone, from: endpoint.name)) }
    }

    /// All that others knew is known here.
    func loaded(_ endpoint: ReplicaEndpoint) {
        guard endpoint.isOffered else { return }
        unfollow(endpoint)
        for follower in followers.values where follower.greeting != nil {
            offer(endpoint.name, true, to: follower)
        }
    }

    /// Follows a router for an endpoint that is followed nowhere.
    func choose(for endpoint: ReplicaEndpoint) {
        guard !endpoint.isOffered, endpoint.following == nil else { return }
        let best = tellers.values.filter { $0.offers.contains(endpoint.name) }
            .min { ($0.greeting?.router ?? .max) < ($1.greeting?.router ?? .max) }
        guard let best else { return }
        let number = best.nextNumber
        best.nextNumber += 1
        best.endpoints[number] = endpoint.name
        endpoint.following = ReplicaEndpoint.Following(connection: best.id, number: number)
        // Who has events wants what was before them, once and whole: of a log that goes on in
        // several frames the end would not be seen.
        let cursor = endpoint.table.isDirect ? nil : endpoint.cursor
        send(
            .follow(
                number: number, endpoint: endpoint.name, epoch: cursor?.epoch ?? 0,
                position: cursor?.position ?? 0), to: best)
    }

    func unfollow(_ endpoint: ReplicaEndpoint) {
        guard let following = endpoint.following else { return }
        endpoint.following = nil
        endpoint.table.endReading()
        if !endpoint.table.isDirect { endpoint.table.setUnloaded() }
        guard let teller = tellers[following.connection] else { return }
        teller.endpoints[following.number] = nil
        send(.unfollow(number: following.number), to: teller)
    }

    private func send(_ frame: ReplicaFrame, to teller: TellerSession) {
        guard teller.outbox.count < 4 * Self.maximumEndpointCount else {
            return fail(teller.id, .tooMany("frames that are not read"))
        }
        teller.outbox.append(frame)
        effects.append(.ready(teller.id))
    }
}

extension ReplicaChange {
    fileprivate var block: SharedBlock? {
        switch self {
        case .stored(let block), .removed(let block): block
        case .cleared: nil
        }
    }
}
