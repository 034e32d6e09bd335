public import Core
public import KVIndex
import Logging
import Net
public import RedisClient
import Telemetry

/// Shares an index with llm-d's endpoint pickers through Redis, in their layout.
///
/// Routing never waits for it: the index answers every lookup. Meanwhile Redis is asked for the
/// prompts that were looked up, and what others know is taken over, for the next request with the
/// same prefix. What events tell is written as llm-d's own routers write it.
///
/// Blocks that Redis tells of have no engine hash. They lie in the index under their request key in
/// its place: an engine's own hash is the same by a chance of one in 2^64, unless the engine hashes
/// as routers do, and then both mean the same block.
///
/// Lives on its event loop, which should not carry requests. One exchange with Redis is under way
/// at a time.
public final class UpstreamIndexBackend: IndexSharing {
    /// How the index is shared.
    public struct Configuration: Hashable, Sendable {
        /// The server.
        public var redis: RedisConfiguration
        /// How often is looked whether there is something to do again.
        public var pollInterval = Duration.milliseconds(100)
        /// How long an answer of Redis counts: a block is not asked for again before.
        public var refreshInterval = Duration.milliseconds(500)
        /// How long after a new connection nothing is given back: a server that lost its data is
        /// being filled again.
        public var settlingTime = Duration.seconds(10)
        /// Blocks that are asked for and remembered.
        public var maximumImportedBlocks = 1 << 20

        /// Shares through a server.
        public init(redis: RedisConfiguration) {
            self.redis = redis
        }
    }

    /// An endpoint of the pool.
    private final class Member {
        let name: String
        let handle: EndpointHandle
        /// What Redis knows it by.
        let pod: String
        /// What `ImportedBlocks` knows it by; a new one when it lost everything.
        var number: UInt32 = 0
        var state = UpstreamEndpoint()
        /// Whether it stands in `due`.
        var isDue = false

        init(name: String, handle: EndpointHandle, pod: String) {
            self.name = name
            self.handle = handle
            self.pod = pod
        }
    }

    /// How an endpoint's blocks in a tier differ from what Redis answered.
    private struct Difference {
        var new: [UInt64] = []
        var kept: [UInt64] = []
        var gone: [UInt64] = []
    }

    /// The way of lookups to the loop.
    // Sendable: `backend` is touched on the loop only.
    private final class Signal: @unchecked Sendable {
        weak var backend: UpstreamIndexBackend?
    }

    /// Blocks that one pipeline tells of.
    private static let maximumWorkCount = 512
    /// How long nothing is written after Redis refused it.
    private static let pauseAfterRefusal = Duration.seconds(1)

    private let configuration: Configuration
    private let index: KVIndex
    private let loop: EventLoop
    private let metrics: UpstreamIndexMetrics
    private let logger: Logger
    private let signal = Signal()
    private var client: RedisClient?
    private var timer: Timer?

    private var members: [String: Member] = [:]
    private var membersByNumber: [UInt32: Member] = [:]
    private var nextNumber: UInt32 = 0
    private var pods = PodDirectory([:])
    private var imported: ImportedBlocks
    private var prompts = PromptQueue()
    /// Endpoints of which Redis is to be told, in turn.
    private var due: [Member] = []
    private var waitingCount = 0
    private var isBusy = false
    private var isWriting = false
    private var isReadingNext = false
    private var isConnected = false
    private var problem: RedisError?
    private var refusal: RedisServerError?
    private var writesRefusedUntil = MonotonicTime.now
    private var takesBackFrom = MonotonicTime.now
    private var agreedAt = MonotonicTime.now

    /// Starts to share; the server need not be there.
    ///
    /// - Throws: ``RedisError`` if the configuration cannot be used.
    public init(
        _ configuration: Configuration, in environment: IndexSharingEnvironment,
        metrics: UpstreamIndexMetrics
    ) throws(RedisError) {
        environment.loop.preconditionInLoop()
        self.configuration = configuration
        index = environment.index
        loop = environment.loop
        logger = environment.logger
        self.metrics = metrics
        imported = ImportedBlocks(
            capacity: configuration.maximumImportedBlocks,
            refreshInterval: configuration.refreshInterval)
        client = try RedisClient(configuration.redis, on: loop) { [weak self] state in
            self?.connectionChanged(to: state)
        }
        timer = loop.schedule(every: configuration.pollInterval) { [weak self] in self?.tick() }
        signal.backend = self
        index.recentLookups.open { [loop, signal] in
            loop.execute { signal.backend?.advance() }
        }
    }

    /// Stops to share. The index keeps what was taken over.
    public func close() {
        index.recentLookups.close()
        timer?.cancel()
        timer = nil
        client?.close()
        client = nil
    }

    // MARK: - The pool

    /// The pool. Of an endpoint that left nothing is deleted in Redis: other routers may have it
    /// still, and llm-d's do not either.
    public func update(_ servers: [ModelServer]) {
        let new = Dictionary(servers.map { ($0.name, $0) }) { first, _ in first }
        for member in Array(members.values)
        where new[member.name]?.address.description != member.pod
            || index.endpoint(named: member.name) != member.handle
        {
            leave(member)
        }
        for (name, server) in new where members[name] == nil {
            guard let handle = index.endpoint(named: name) else { continue }
            let member = Member(name: name, handle: handle, pod: server.address.description)
            members[name] = member
            takeNumber(member)
        }
        listPods()
    }

    private func takeNumber(_ member: Member) {
        member.number = nextNumber
        nextNumber = (nextNumber + 1) % (1 << 30)
        membersByNumber[member.number] = member
        imported.join(member.number)
    }

    private func giveUpNumber(_ member: Member) {
        imported.leave(member.number)
        membersByNumber[member.number] = nil
    }

    private func leave(_ member: Member) {
        // The index dropped what it had.
        giveUpNumber(member)
        members[member.name] = nil
        due.removeAll { $0 === member }
        count(-member.state.waitingCount)
    }

    private func listPods() {
        // Of servers that share an address the first by name counts.
        let sorted = members.values.sorted { $0.name < $1.name }.map { ($0.pod, $0.number) }
        pods = PodDirectory(Dictionary(sorted) { first, _ in first })
    }

    // MARK: - The events of its engines

    /// What an engine's events changed, in its order.
    public func applied(_ changes: [BlockChange], at endpoint: String) {
        guard let member = members[endpoint] else { return }
        // What was known from Redis, and events tell now.
        var stored: [Tier: (hashes: [UInt64], keys: [UInt64])] = [:]
        var removed: [Tier: [UInt64]] = [:]
        let before = member.state.waitingCount
        for change in changes {
            switch change {
            case .stored(let hash, let key, let tier, let group):
                member.state.stored(hash, key: key, in: tier, group: group)
                guard takeOut(key, tier, of: member) else { continue }
                stored[tier, default: ([], [])].hashes.append(hash)
                stored[tier]?.keys.append(key)
            case .removed(let hash, let tier):
                guard let key = member.state.removed(hash, from: tier),
                    takeOut(key, tier, of: member)
                else { continue }
                removed[tier, default: []].append(key)
            case .cleared: clear(member)
            }
        }
        waits(member, before)
        for (tier, blocks) in stored {
            index.takeBack(
                blocks.keys.span, storedAs: blocks.hashes.span, keys: blocks.keys.span, in: tier,
                of: member.handle)
        }
        for (tier, keys) in removed { index.takeBack(keys.span, from: tier, of: member.handle) }
        advance()
    }

    /// Nothing: who gets the events writes them, and the next ones tell what was missed.
    public func lost(_ endpoint: String) {}

    /// The engine dropped everything, and so did the index.
    private func clear(_ member: Member) {
        member.state.cleared()
        for (key, tier) in imported.blocks(of: member.number) {
            member.state.disown(nil, key: key, in: tier)
        }
        giveUpNumber(member)
        takeNumber(member)
        listPods()
    }

    /// Whether a block was known from Redis, which it is not from now on.
    private func takeOut(_ key: UInt64, _ tier: Tier, of member: Member) -> Bool {
        imported.remove(.init(key: key, place: .init(endpoint: member.number, tier: tier)))
    }

    private func change(_ member: Member, _ body: (inout UpstreamEndpoint) -> Void) {
        let before = member.state.waitingCount
        body(&member.state)
        waits(member, before)
    }

    /// Something may wait for Redis that did not before.
    private func waits(_ member: Member, _ before: Int) {
        guard members[member.name] === member else { return }
        count(member.state.waitingCount - before)
        guard member.state.waitingCount > 0, !member.isDue else { return }
        member.isDue = true
        due.append(member)
    }

    private func count(_ difference: Int) {
        waitingCount += difference
        metrics.shared.waitingChanges.set(Double(waitingCount))
    }

    // MARK: - The connection

    private func connectionChanged(to state: RedisClient.State) {
        metrics.shared.isConnected.set(state == .ready ? 1 : 0)
        switch state {
        case .ready:
            logger.info("the index is shared through Redis, in llm-d's layout")
            problem = nil
            isConnected = true
            takesBackFrom = .now + configuration.settlingTime
            advance()
        case .waiting(let error):
            // Attempts go on; each new problem is told once.
            if error != problem { logger.warning("the index is not shared: \(error)") }
            problem = error
            if isConnected { lose() }
        case .connecting, .closed: break
        }
    }

    /// Redis may have lost everything.
    private func lose() {
        isConnected = false
        isBusy = false
        isWriting = false
        for member in members.values { change(member) { $0.doubt() } }
    }

    private func tick() {
        advance()
        if isConnected, waitingCount == 0, !isWriting { agreedAt = .now }
        let age = MonotonicTime.now - agreedAt
        metrics.shared.disagreement.set(age < configuration.pollInterval ? 0 : age.seconds)
        metrics.importedBlocks.set(Double(imported.count))
        metrics.droppedPrompts.increment(by: index.recentLookups.takeDroppedCount())
    }

    /// Starts the next exchange, if none is under way: questions and changes in turn.
    private func advance() {
        guard let client, client.isReady, !isBusy else { return }
        if isReadingNext {
            isReadingNext = false
            if ask() || write() { return }
        } else if write() {
            isReadingNext = true
        } else {
            _ = ask()
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

    /// The first error that is not about a single key of another type: such a key is foreign.
    private func firstRefusal(in replies: RedisReplies) -> RedisServerError? {
        for index in 0..<replies.count {
            guard let error = replies[index].error else { continue }
            guard error.kind == .wrongType else { return error }
            metrics.malformed.increment()
        }
        return nil
    }

    /// Redis does not do what it is told. Each new reason is told once.
    private func refused(_ error: RedisServerError, to what: String) {
        metrics.shared.refusedBatches.increment()
        if error != refusal { logger.warning("the index cannot be \(what): \(error)") }
        refusal = error
    }

    // MARK: - Writing

    /// Whether there was something to tell.
    private func write() -> Bool {
        guard writesRefusedUntil <= .now else { return false }
        while !due.isEmpty {
            let member = due.removeFirst()
            member.isDue = false
            var work = UpstreamEndpoint.Work()
            change(member) { work = $0.takeWork(limit: Self.maximumWorkCount) }
            if !work.isEmpty {
                write(work, of: member)
                return true
            }
            change(member) { $0.finish(work) }
        }
        return false
    }

    private func write(_ work: UpstreamEndpoint.Work, of member: Member) {
        var pipeline = RedisPipeline()
        UpstreamIndexLayout.tell(
            work, of: member.pod, group: member.state.group, in: &pipeline)
        isWriting = true
        let failed = { [weak self] in
            self?.isWriting = false
            self?.change(member) { $0.putBack(work) }
        }
        exchange(
            pipeline,
            { [weak self] replies in
                guard let self else { return }
                if let error = firstRefusal(in: replies) {
                    writesRefusedUntil = .now + Self.pauseAfterRefusal
                    refused(error, to: "written to Redis")
                    return failed()
                }
                isWriting = false
                refusal = nil
                change(member) { $0.finish(work) }
                if !work.removals.isEmpty {
                    found(replies[replies.count - 1], for: work.removals, at: member)
                }
            }, failed: failed)
    }

    /// Redis told which blocks the removals meant whose engine hash this router did not know.
    private func found(
        _ reply: RedisReply, for removals: [UpstreamEndpoint.Work.Removal], at member: Member
    ) {
        guard members[member.name] === member, reply.count == removals.count else { return }
        for (index, removal) in removals.enumerated() {
            guard removal.key == nil, let field = removal.field else { continue }
            let tier = Tier(rawValue: UInt8(field / 2)) ?? .remote
            for block in 0..<reply[index].count {
                guard let key = reply[index][block].text.flatMap({ UInt64($0) }) else { continue }
                if member.state.word(on: key, in: tier) == .held {
                    // The engine has it under another hash as well.
                    change(member) { $0.lost(key) }
                } else if takeOut(key, tier, of: member) {
                    self.index.takeBack([key].span, from: tier, of: member.handle)
                }
            }
        }
    }

    // MARK: - Reading

    /// Whether there was something to ask for.
    private func ask() -> Bool {
        if prompts.isEmpty { prompts.append(index.recentLookups.take()) }
        let question = prompts.takeQuestion(asking: &imported, at: .now)
        for block in imported.takeEvicted() {
            guard let member = membersByNumber[block.place.endpoint] else { continue }
            index.takeBack([block.key].span, from: block.place.tier, of: member.handle)
        }
        guard !question.isEmpty else { return false }
        var pipeline = RedisPipeline()
        UpstreamIndexLayout.lookup(question, in: &pipeline)
        metrics.questions.increment(by: question.count)
        exchange(pipeline) { [weak self] replies in self?.take(replies, of: question) }
        return true
    }

    private func take(_ replies: RedisReplies, of question: [UInt64]) {
        if let error = firstRefusal(in: replies) { return refused(error, to: "read from Redis") }
        let mayTakeBack = takesBackFrom <= .now
        var differences: [ImportedBlocks.Place: Difference] = [:]
        for (number, key) in question.enumerated() {
            let (listed, malformedCount) = pods.places(in: replies[number])
            metrics.malformed.increment(by: malformedCount)
            if number == 0 { findLosses(of: key, listed) }
            let difference = imported.answered(
                key, places: listed.filter { mayImport(key, $0) }, isListed: !listed.isEmpty,
                mayTakeBack: mayTakeBack)
            for place in difference.new { differences[place, default: .init()].new.append(key) }
            for place in difference.kept { differences[place, default: .init()].kept.append(key) }
            for place in difference.gone { differences[place, default: .init()].gone.append(key) }
        }
        for (place, blocks) in differences {
            guard let handle = membersByNumber[place.endpoint]?.handle else { continue }
            let (new, kept) = (blocks.new.span, blocks.kept.span)
            if !blocks.gone.isEmpty {
                index.takeBack(blocks.gone.span, from: place.tier, of: handle)
            }
            if !kept.isEmpty { index.renew(kept, keys: kept, in: place.tier, of: handle) }
            if !new.isEmpty { index.add(new, keys: new, in: place.tier, of: handle) }
        }
    }

    /// Of an endpoint whose events come here, Redis adds what was stored before they came.
    private func mayImport(_ key: UInt64, _ place: ImportedBlocks.Place) -> Bool {
        guard let member = membersByNumber[place.endpoint] else { return false }
        return !member.state.isComplete && member.state.word(on: key, in: place.tier) == .unknown
    }

    /// Redis lacks what it was told of: someone emptied it, or took an endpoint's blocks away.
    private func findLosses(of key: UInt64, _ listed: Set<ImportedBlocks.Place>) {
        for member in members.values
        where member.state.hasTold(of: key)
            && !listed.contains(where: { $0.endpoint == member.number })
        {
            logger.notice(
                "Redis has lost blocks of an endpoint, which are written again",
                metadata: ["endpoint": "\(member.name)"])
            change(member) { $0.doubt() }
        }
    }
}
