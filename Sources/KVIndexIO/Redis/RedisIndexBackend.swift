public import Core
public import KVIndex
public import Logging
public import Net
public import RedisClient
import Telemetry

/// Shares an index with other routers through Redis.
///
/// Routing never waits for it: the index is the local replica, from which every lookup is answered,
/// with or without Redis. One router at a time, by a lease, writes what an endpoint's events tell;
/// the others follow where they do not get the events themselves. A router that starts takes over
/// what Redis has. After any doubt (connection lost, refused, fallen behind, another writer) the
/// endpoint's blocks are read and compared, so that both sides agree again.
///
/// Lives on its event loop, which should not carry requests. One exchange with Redis is under way
/// at a time.
public final class RedisIndexBackend: IndexSharing {
    /// How the index is shared.
    public struct Configuration: Hashable, Sendable {
        /// The server.
        public var redis: RedisConfiguration
        /// Keeps indexes apart that share a server. Routers of one namespace must agree in block
        /// size, algorithm and seed.
        public var namespace = "default"
        /// How this router calls itself; unique among those that share.
        public var router = "\(UInt64.random(in: 0 ... .max))"
        /// How often changes are looked for.
        public var pollInterval = Duration.milliseconds(100)
        /// How long a router may be silent before another one writes in its place.
        public var lease = Duration.seconds(5)
        /// How long an endpoint's blocks are kept when no router speaks for it.
        public var endpointLifetime = Duration.seconds(600)
        /// How often endpoints that nobody speaks for are looked for.
        public var housekeepingInterval = Duration.seconds(10)
        /// Changes that may wait for Redis.
        public var maximumWaitingChanges = 1 << 17

        /// Shares through a server.
        public init(redis: RedisConfiguration) {
            self.redis = redis
        }
    }

    /// Whether this router and Redis agreed on every endpoint when they were last compared, at
    /// most ``Configuration/pollInterval`` ago.
    public private(set) var isAgreed = false

    private let configuration: Configuration
    private let layout: RedisIndexLayout
    private let loop: EventLoop
    private let replica: any SharedIndexReplica
    private let metrics: RedisIndexMetrics
    private let logger: Logger
    private var client: RedisClient?
    private var endpoints: [String: SharedEndpoint] = [:]
    private var names: [Int: String] = [:]
    private var waitingCount = 0
    private var timer: Timer?
    private var isBusy = false
    private var feedPosition: String?
    private var problem: RedisError?
    private var isFeedDue = true
    /// Whether Redis has told of every endpoint on this connection.
    private var hasClaimed = false
    private var claimsDue = MonotonicTime.now
    private var housekeepingDue = MonotonicTime.now
    private var writesRefusedUntil = MonotonicTime.now
    private var agreedAt = MonotonicTime.now

    /// Starts to share; the server need not be there.
    ///
    /// - Throws: ``RedisError`` if the configuration cannot be used.
    public init(
        _ configuration: Configuration, replica: any SharedIndexReplica, on loop: EventLoop,
        metrics: RedisIndexMetrics, logger: Logger
    ) throws(RedisError) {
        loop.preconditionInLoop()
        self.configuration = configuration
        self.replica = replica
        self.loop = loop
        self.metrics = metrics
        self.logger = logger
        layout = RedisIndexLayout(namespace: configuration.namespace)
        client = try RedisClient(configuration.redis, on: loop) { [weak self] state in
            self?.connectionChanged(to: state)
        }
        timer = loop.schedule(every: configuration.pollInterval) { [weak self] in self?.tick() }
    }

    /// Starts to share an index; routers whose keys are made otherwise are kept apart.
    ///
    /// - Throws: ``RedisError`` if the configuration cannot be used.
    public convenience init(
        _ configuration: Configuration, in environment: IndexSharingEnvironment,
        metrics: RedisIndexMetrics
    ) throws(RedisError) {
        let keys = environment.index.configuration
        var configuration = configuration
        configuration.namespace += "/\(keys.algorithm)/\(keys.blockSize)/\(keys.hashSeed)"
        try self.init(
            configuration, replica: IndexReplica(environment.index), on: environment.loop,
            metrics: metrics, logger: environment.logger)
    }

    /// Stops to share. The leases end by themselves.
    public func close() {
        timer?.cancel()
        timer = nil
        client?.close()
        client = nil
    }

    // MARK: - The pool, and the events of its engines

    /// The pool. Endpoints that are new take over what Redis has.
    public func update(_ servers: [ModelServer]) { update(servers.map(\.name)) }

    /// As above, by the names of the endpoints.
    package func update(_ names: [String]) {
        let new = Set(names)
        for name in Array(endpoints.keys) where !new.contains(name) { forget(name) }
        for name in new where endpoints[name] == nil {
            endpoints[name] = SharedEndpoint()
            hasClaimed = false
            claimsDue = .now
        }
    }

    /// An engine's events told of blocks.
    public func stored(_ blocks: some Sequence<SharedBlock>, at endpoint: String) {
        change(endpoint) { endpoint in blocks.compactMap { endpoint.store($0) } }
    }

    /// An engine's events told of removals.
    public func removed(_ hashes: some Sequence<UInt64>, from tier: Tier, at endpoint: String) {
        change(endpoint) { endpoint in
            for hash in hashes { endpoint.remove(hash, from: tier) }
            return []
        }
    }

    /// An engine dropped everything, or restarted.
    public func cleared(_ endpoint: String) {
        change(endpoint) { endpoint in
            endpoint.clear()
            return []
        }
    }

    /// As the three above, in the order of the changes.
    public func applied(_ changes: [BlockChange], at endpoint: String) {
        change(endpoint) { endpoint in
            endpoint.mayWrite = true
            return changes.compactMap { endpoint.apply($0) }
        }
    }

    /// An engine's events come no more: this router's lease ends, so that another one that gets
    /// them can write.
    public func lost(_ endpoint: String) {
        changeSilently(endpoint) { $0.mayWrite = false }
    }

    /// Changes an endpoint by its events. `body` returns what the index now counts twice.
    private func change(_ name: String, _ body: (inout SharedEndpoint) -> [SharedBlock]) {
        guard var endpoint = endpoints.removeValue(forKey: name) else { return }
        let before = endpoint.changes.count
        let doubled = body(&endpoint)
        // Who does not write has nothing to say: all is compared before it begins to.
        if endpoint.writesUntil == nil {
            endpoint.dropWaiting()
        } else if waitingCount + endpoint.changes.count - before
            > configuration.maximumWaitingChanges
        {
            endpoint.dropChanges()
            metrics.droppedBatches.increment()
        }
        count(endpoint.changes.count - before)
        endpoints[name] = endpoint
        guard !doubled.isEmpty else { return }
        loop.schedule(after: .zero) { [weak self] in self?.replica.remove(doubled, from: name) }
    }

    private func count(_ difference: Int) {
        waitingCount += difference
        metrics.waitingChanges.set(Double(waitingCount))
    }

    private func forget(_ name: String) {
        guard let endpoint = endpoints.removeValue(forKey: name) else { return }
        count(-endpoint.changes.count)
        if let number = endpoint.number { names[number] = nil }
    }

    // MARK: - The connection

    private func connectionChanged(to state: RedisClient.State) {
        metrics.isConnected.set(state == .ready ? 1 : 0)
        switch state {
        case .ready:
            logger.info("the index is shared through Redis")
            problem = nil
            isBusy = false
            feedPosition = nil
            claimsDue = .now
            advance()
        case .waiting(let error):
            // Attempts go on; each new problem is told once.
            if error != problem { logger.warning("the index is not shared: \(error)") }
            problem = error
            lose()
        case .connecting, .closed: break
        }
    }

    /// Nothing that Redis said counts any more.
    private func lose() {
        isBusy = false
        feedPosition = nil
        hasClaimed = false
        names = [:]
        for name in Array(endpoints.keys) {
            changeSilently(name) { endpoint in
                endpoint.number = nil
                endpoint.mark = nil
                endpoint.writesUntil = nil
                endpoint.dropChanges()
            }
        }
    }

    private func changeSilently(_ name: String, _ body: (inout SharedEndpoint) -> Void) {
        guard var endpoint = endpoints.removeValue(forKey: name) else { return }
        let before = endpoint.changes.count
        body(&endpoint)
        count(endpoint.changes.count - before)
        endpoints[name] = endpoint
    }

    private func tick() {
        isFeedDue = true
        advance()
        isAgreed =
            client?.isReady == true && hasClaimed && waitingCount == 0
            && endpoints.values.allSatisfy(\.isAgreed)
        if isAgreed { agreedAt = .now }
        metrics.disagreement.set(isAgreed ? 0 : (.now - agreedAt).seconds)
    }

    /// Starts the next exchange, if none is under way.
    private func advance() {
        guard let client, client.isReady, !isBusy else { return }
        let now = MonotonicTime.now
        if feedPosition == nil {
            findEndOfFeed()
        } else if claimsDue <= now {
            claim(now)
        } else if let name = nextToRenumber(now) {
            renumber(name)
        } else if let (name, number) = nextToMark(now) {
            mark(name, number)
        } else if let (name, number, cursor) = nextToRead() {
            read(name, number, cursor)
        } else if let (name, number) = nextToWrite(now) {
            write(name, number)
        } else if isFeedDue, endpoints.values.contains(where: { !$0.isDirect }) {
            followFeed()
        } else if housekeepingDue <= now, writesRefusedUntil <= now {
            housekeep(now)
        }
    }

    /// Sends a pipeline; its replies, and then the next exchange.
    private func exchange(
        _ pipeline: RedisPipeline, _ handle: @escaping (RedisReplies) -> Void,
        failed: @escaping () -> Void = {}
    ) {
        isBusy = true
        do throws(RedisError) {
            try client?.send(pipeline) { [weak self] result in
                guard let self else { return }
                guard case .success(let replies) = result else { return failed() }
                isBusy = false
                handle(replies)
                advance()
            }
        } catch {
            // The connection's state tells more, and when to go on.
            isBusy = false
            failed()
        }
    }

    /// Whether the server refused a write; no more are tried for a while.
    private func isRefused(_ replies: RedisReplies) -> Bool {
        guard let error = replies.firstError else { return false }
        metrics.refusedBatches.increment()
        logger.warning("the index cannot be written to Redis: \(error)")
        writesRefusedUntil = .now + .seconds(1)
        return true
    }

    // MARK: - Who writes

    private func claim(_ now: MonotonicTime) {
        claimsDue = now + configuration.lease / 4
        let claimed = endpoints.map { (name: $0.key, wantsLease: $0.value.wantsLease) }
        guard !claimed.isEmpty else { return advance() }
        var pipeline = RedisPipeline()
        let mayWrite = writesRefusedUntil <= now
        for (name, wantsLease) in claimed {
            layout.claim(
                name, for: configuration.router, wantsLease: wantsLease && mayWrite,
                lease: configuration.lease, lifetime: configuration.endpointLifetime,
                in: &pipeline)
        }
        exchange(pipeline) { [weak self] replies in
            guard let self else { return }
            _ = isRefused(replies)
            hasClaimed = true
            for (index, (name, _)) in claimed.enumerated() {
                take(replies[index], of: name, until: now + configuration.lease)
            }
        }
    }

    private func take(_ reply: RedisReply, of name: String, until: MonotonicTime) {
        let isWriter = reply.count == 3 && reply[0].integer == 1
        let mark = reply.count == 3 ? reply[2].text : nil
        let number = mark == nil ? nil : reply[1].integer
        changeSilently(name) { endpoint in
            let wasWriter = endpoint.writesUntil != nil
            endpoint.writesUntil = isWriter ? until : nil
            if !isWriter { endpoint.dropWaiting() }
            guard
                number != endpoint.number || mark != endpoint.mark || isWriter != wasWriter
            else { return }
            if let old = endpoint.number, self.names[old] == name { self.names[old] = nil }
            endpoint.number = number
            endpoint.mark = mark
            if let number { self.names[number] = name }
            endpoint.disagree()
        }
    }

    private func nextToRenumber(_ now: MonotonicTime) -> String? {
        endpoints.first { $0.value.needsNewNumber && ($0.value.writesUntil ?? now) > now }?.key
    }

    private func renumber(_ name: String) {
        var pipeline = RedisPipeline()
        layout.renumber(
            name, for: configuration.router, lifetime: configuration.endpointLifetime,
            in: &pipeline)
        exchange(pipeline) { [weak self] replies in
            guard let self else { return }
            guard !isRefused(replies), let number = replies[0].integer, number >= 0 else {
                claimsDue = .now
                return changeSilently(name) { $0.writesUntil = nil }
            }
            changeSilently(name) { endpoint in
                if let old = endpoint.number { self.names[old] = nil }
                self.names[number] = name
                endpoint.renumbered(to: number)
            }
        }
    }

    private func nextToMark(_ now: MonotonicTime) -> (name: String, number: Int)? {
        guard writesRefusedUntil <= now else { return nil }
        for (name, endpoint) in endpoints where endpoint.canBeMarked {
            guard let number = endpoint.number, let until = endpoint.writesUntil, until > now
            else { continue }
            return (name, number)
        }
        return nil
    }

    private func mark(_ name: String, _ number: Int) {
        let mark = "\(UInt64.random(in: 0 ... .max))"
        var pipeline = RedisPipeline()
        layout.mark(
            name, number, mark, for: configuration.router,
            lifetime: configuration.endpointLifetime, in: &pipeline)
        exchange(pipeline) { [weak self] replies in
            guard let self else { return }
            guard !isRefused(replies), replies[0].integer == 1 else {
                claimsDue = .now
                return changeSilently(name) { $0.writesUntil = nil }
            }
            changeSilently(name) { if $0.number == number { $0.mark = mark } }
        }
    }

    // MARK: - Reading

    private func nextToRead() -> (name: String, number: Int, cursor: String)? {
        for (name, endpoint) in endpoints {
            guard let number = endpoint.number else { continue }
            switch endpoint.agreement {
            case .reading(let cursor): return (name, number, cursor)
            case .unknown: return (name, number, "0")
            case .reached: continue
            }
        }
        return nil
    }

    private func read(_ name: String, _ number: Int, _ cursor: String) {
        var pipeline = RedisPipeline()
        layout.read(number, from: cursor, in: &pipeline)
        if cursor == "0" { metrics.readings.increment() }
        exchange(pipeline) { [weak self] replies in
            guard let self, endpoints[name]?.number == number,
                endpoints[name]?.agreement != .reached, replies[0].count == 2,
                let next = replies[0][0].text
            else { return }
            let mark = replies[1].text ?? ""
            let blocks = RedisIndexLayout.blocks(of: replies[0][1])
            var added: [SharedBlock] = []
            var gone: [SharedBlock] = []
            changeSilently(name) { endpoint in
                added = endpoint.read(blocks, mark: mark, next: next)
                if next == "0" { gone = endpoint.finishReading() }
            }
            if !added.isEmpty { replica.add(added, to: name) }
            if !gone.isEmpty { replica.remove(gone, from: name) }
        }
    }

    private func findEndOfFeed() {
        var pipeline = RedisPipeline()
        layout.endOfFeed(in: &pipeline)
        exchange(pipeline) { [weak self] replies in
            self?.feedPosition = replies[0].count > 0 ? replies[0][0][0].text ?? "0" : "0"
        }
    }

    private func followFeed() {
        isFeedDue = false
        guard let position = feedPosition else { return }
        var pipeline = RedisPipeline()
        layout.feed(after: position, in: &pipeline)
        exchange(pipeline) { [weak self] replies in
            guard let self else { return }
            let oldest = replies[0].count > 0 ? replies[0][0][0].text : nil
            if let oldest, position != "0", FeedPosition(position) < FeedPosition(oldest) {
                // Some entries may have gone before they were read.
                for name in Array(endpoints.keys) { changeSilently(name) { $0.dropChanges() } }
            }
            guard replies[1].count > 0 else { return }
            let entries = replies[1][0][1]
            for index in 0..<entries.count {
                if let id = entries[index][0].text { feedPosition = id }
                if let entry = RedisIndexLayout.FeedEntry(entries[index][1]) { follow(entry) }
            }
            isFeedDue = entries.count > 0
        }
    }

    private func follow(_ entry: RedisIndexLayout.FeedEntry) {
        switch entry {
        case .renumbered: claimsDue = .now
        case .changed(let number, let blocks, let isStore):
            guard let name = names[number], endpoints[name]?.isDirect == false else { return }
            var changed: [SharedBlock] = []
            changeSilently(name) { endpoint in
                changed =
                    isStore ? endpoint.follow(stored: blocks) : endpoint.follow(removed: blocks)
            }
            guard !changed.isEmpty else { return }
            if isStore {
                replica.add(changed, to: name)
            } else {
                replica.remove(changed, from: name)
            }
        }
    }

    // MARK: - Writing

    private func nextToWrite(_ now: MonotonicTime) -> (name: String, number: Int)? {
        guard writesRefusedUntil <= now else { return nil }
        for (name, endpoint) in endpoints where !endpoint.changes.isEmpty {
            guard endpoint.agreement == .reached, !endpoint.needsNewNumber,
                let number = endpoint.number, let until = endpoint.writesUntil, until > now
            else { continue }
            return (name, number)
        }
        return nil
    }

    private func write(_ name: String, _ number: Int) {
        var pipeline = RedisPipeline()
        changeSilently(name) { endpoint in
            let limit = RedisIndexLayout.maximumBatchCount
            guard let (blocks, isStore) = endpoint.takeChanges(limit: limit) else { return }
            if isStore {
                self.layout.store(blocks, of: number, in: &pipeline)
            } else {
                self.layout.remove(blocks, of: number, in: &pipeline)
            }
        }
        let lost = { [weak self] in
            guard let self else { return }
            metrics.droppedBatches.increment()
            changeSilently(name) { $0.dropChanges() }
        }
        exchange(
            pipeline,
            { [weak self] replies in
                if self?.isRefused(replies) == true { lost() }
            }, failed: lost)
    }

    private func housekeep(_ now: MonotonicTime) {
        var pipeline = RedisPipeline()
        layout.housekeep(in: &pipeline)
        exchange(pipeline) { [weak self] replies in
            guard let self else { return }
            let hasMore = !isRefused(replies) && replies[0].integer == 1
            housekeepingDue = .now + (hasMore ? .zero : configuration.housekeepingInterval)
        }
    }
}

/// A stream's identifier, in its order: milliseconds and a number.
private struct FeedPosition: Comparable {
    private let parts: [UInt64]

    init(_ text: String) {
        parts = text.split(separator: "-").map { UInt64($0) ?? 0 }
    }

    static func < (left: FeedPosition, right: FeedPosition) -> Bool {
        left.parts.lexicographicallyPrecedes(right.parts)
    }
}
