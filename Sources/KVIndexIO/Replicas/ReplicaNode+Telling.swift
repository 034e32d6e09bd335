import Core

// What is told to routers that follow this one.
extension ReplicaNode {
    func received(_ frame: ReplicaFrame, from follower: FollowerSession)
        throws(ReplicaError)
    {
        switch (frame, follower.greeting) {
        case (.greeting(let greeting), nil):
            try check(greeting)
            follower.greeting = greeting
            follower.isGreetingDue = true
            for endpoint in endpoints.values where endpoint.isOffered {
                offer(endpoint.name, true, to: follower)
            }
            effects.append(.ready(follower.id))
            beginLoad(for: follower)
        case (.heartbeat, .some): break
        case (.follow(let number, let name, let epoch, let position), .some):
            try subscribe(follower, number, name, epoch, position)
        case (.unfollow(let number), .some):
            guard let old = follower.subscriptions.removeValue(forKey: number) else { break }
            if follower.numbers[old.endpoint] == number { follower.numbers[old.endpoint] = nil }
        default: throw .unexpected("\(frame.kind) of a follower")
        }
    }

    private func subscribe(
        _ follower: FollowerSession, _ number: UInt32, _ name: String, _ epoch: UInt64,
        _ position: UInt64
    ) throws(ReplicaError) {
        guard follower.subscriptions[number] == nil else {
            throw .unexpected("the number \(number) a second time")
        }
        guard follower.snapshots.count + follower.live.count < 4 * Self.maximumEndpointCount else {
            throw .tooMany("endpoints")
        }
        // Who asks for what is not offered any more hears so, or has.
        guard let endpoint = endpoints[name], endpoint.isOffered else { return }
        if let old = follower.numbers[name] { follower.subscriptions[old] = nil }
        follower.numbers[name] = number
        var new = FollowerSession.Subscription(endpoint: name, stage: .waiting, position: position)
        if epoch == configuration.epoch,
            endpoint.log.changes(after: position, limit: 0) != nil
        {
            new.stage = .live
            new.isAnswerDue = true
            new.isQueued = true
            follower.live.append(number)
        } else {
            follower.snapshots.append(number)
        }
        follower.subscriptions[number] = new
        effects.append(.ready(follower.id))
    }

    /// Followers are told the last changes, as far as they are few, and that there are no more.
    func withdraw(_ endpoint: ReplicaEndpoint) {
        for follower in followers.values where follower.greeting != nil {
            if let number = follower.numbers.removeValue(forKey: endpoint.name),
                let told = follower.subscriptions.removeValue(forKey: number),
                case .live = told.stage,
                let changes = endpoint.log.changes(
                    after: told.position, limit: Self.maximumLastChangeCount),
                !changes.isEmpty, told.position + UInt64(changes.count) == endpoint.log.end
            {
                follower.news.append(
                    .changes(number: number, position: endpoint.log.end, Array(changes)))
            }
            offer(endpoint.name, false, to: follower)
        }
    }

    func offer(_ name: String, _ isOffered: Bool, to follower: FollowerSession) {
        guard follower.news.count < 4 * Self.maximumEndpointCount else {
            return fail(follower.id, .tooMany("offers that are not read"))
        }
        follower.news.append(.offer(endpoint: name, isOffered: isOffered))
        effects.append(.ready(follower.id))
    }

    /// What a follower has yet to be sent.
    func lag(of follower: FollowerSession) -> Int {
        follower.subscriptions.values.reduce(0) { sum, told in
            guard let endpoint = endpoints[told.endpoint] else { return sum }
            switch told.stage {
            case .waiting: return sum + endpoint.table.blockCount
            case .telling(let hashes, let next):
                return sum + hashes.count - next + Int(endpoint.log.end - told.position)
            case .live: return sum + Int(endpoint.log.end - told.position)
            }
        }
    }

    func tellChanges(of name: String, to follower: FollowerSession) {
        guard let number = follower.numbers[name],
            let subscription = follower.subscriptions[number], case .live = subscription.stage,
            !subscription.isQueued
        else { return }
        follower.subscriptions[number]?.isQueued = true
        follower.live.append(number)
        effects.append(.ready(follower.id))
    }

    func nextFrame(for follower: FollowerSession, at now: MonotonicTime) -> ReplicaFrame? {
        if follower.isGreetingDue {
            follower.isGreetingDue = false
            return .greeting(greeting)
        }
        let limit = Int(
            min(
                follower.greeting?.maximumFrameBytes ?? ReplicaFrame.minimumFrameBytes,
                configuration.maximumFrameBytes))
        // Few bytes, which are worth nothing later.
        if let frame = loadFrame(for: follower, limit, at: now) { return frame }
        if let frame = follower.news.popFirst() { return frame }
        // In turn, so that neither keeps the other waiting.
        follower.isSnapshotNext.toggle()
        if follower.isSnapshotNext {
            return snapshotFrame(for: follower, limit) ?? changesFrame(for: follower, limit)
                // A log that was overrun.
                ?? snapshotFrame(for: follower, limit)
        }
        return changesFrame(for: follower, limit) ?? snapshotFrame(for: follower, limit)
    }

    private func changesFrame(for follower: FollowerSession, _ limit: Int) -> ReplicaFrame? {
        let limit = (limit - ReplicaFrame.changesHeadBytes) / ReplicaFrame.changeBytes
        while let number = follower.live.popFirst() {
            guard var told = follower.subscriptions[number],
                let endpoint = endpoints[told.endpoint]
            else { continue }
            told.isQueued = false
            defer { follower.subscriptions[number] = told }
            guard let changes = endpoint.log.changes(after: told.position, limit: limit) else {
                counters.logOverruns += 1
                told.stage = .waiting
                follower.snapshots.append(number)
                continue
            }
            guard !changes.isEmpty || told.isAnswerDue else { continue }
            told.isAnswerDue = false
            told.position += UInt64(changes.count)
            if told.position < endpoint.log.end {
                told.isQueued = true
                follower.live.append(number)
            }
            return .changes(number: number, position: told.position, Array(changes))
        }
        return nil
    }

    /// Blocks are told as they are when their turn comes; what changes meanwhile is told
    /// afterwards, from the log.
    private func snapshotFrame(for follower: FollowerSession, _ limit: Int) -> ReplicaFrame? {
        let limit = (limit - ReplicaFrame.blocksHeadBytes) / SharedBlock.encodedByteCount
        while let number = follower.snapshots.first {
            guard var told = follower.subscriptions[number],
                let endpoint = endpoints[told.endpoint]
            else {
                _ = follower.snapshots.popFirst()
                continue
            }
            defer { follower.subscriptions[number] = told }
            guard case .telling(let hashes, var next) = told.stage else {
                counters.snapshotsTold += 1
                told.position = endpoint.log.end
                told.stage = .telling(hashes: endpoint.table.hashes, next: 0)
                return .begin(number: number, position: told.position)
            }
            var blocks: [SharedBlock] = []
            while next < hashes.count, blocks.count + Tier.allCases.count <= limit {
                blocks += endpoint.table.held(hashes[next])
                next += 1
            }
            guard blocks.isEmpty else {
                told.stage = .telling(hashes: hashes, next: next)
                return .blocks(number: number, blocks)
            }
            _ = follower.snapshots.popFirst()
            told.stage = .live
            if told.position < endpoint.log.end {
                told.isQueued = true
                follower.live.append(number)
            }
            return .end(number: number, position: endpoint.log.end)
        }
        return nil
    }
}
