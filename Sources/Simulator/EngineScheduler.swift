package import Core
package import Hashing

/// Decides what the simulated accelerator does when, in virtual time: no clock, no memory and no
/// sockets, so that a timeline can be computed by hand and compared.
///
/// - Prompts are computed one after another, in the order of arrival.
/// - Sequences that generate do so in common steps, one token each. A sequence whose prompt is
///   done takes part from the next step that begins.
/// - A request is admitted when a place in the batch and the blocks of its tokens are there. One
///   whose adapter finds no place lets others pass.
/// - Where a step needs a block and none is free, the request that began last goes back to the
///   head of those that wait, without its blocks, as in vLLM. Once it is admitted again its prompt
///   and what it has generated are computed as one prompt.
/// - KV cache that another engine computed is pulled as soon as there are blocks for it, and the
///   rest of the prompt is computed here. Pulls share one link.
///
/// Times passed in never go back. What is to be done comes out as ``Event``s in their order.
package struct EngineScheduler {
    /// What bounds the engine.
    package struct Limits: Sendable {
        /// Sequences that run at once.
        package var maxRunning: Int
        /// Requests that wait; see ``EngineScheduler/hasRoom(for:)``.
        package var maxWaiting: Int
        /// Different adapters that run at once.
        package var maxAdapters: Int
        /// Different adapters that lie in host memory; `maxAdapters` at least.
        package var maxResidentAdapters: Int
        /// How long blocks are kept for another engine.
        package var lease: Duration

        /// Makes limits.
        package init(
            maxRunning: Int, maxWaiting: Int, maxAdapters: Int = 0, maxResidentAdapters: Int = 0,
            lease: Duration
        ) {
            self.maxRunning = maxRunning
            self.maxWaiting = maxWaiting
            self.maxAdapters = maxAdapters
            self.maxResidentAdapters = max(maxAdapters, maxResidentAdapters)
            self.lease = lease
        }
    }

    /// Something that the engine has to carry out or tell.
    package enum Event {
        /// The request has its blocks; what is cached of it is known.
        case admitted(EngineRequest)
        /// Read the request's ``EngineRequest/pulled`` blocks from its remote engine, then call
        /// ``EngineScheduler/transferArrived(_:bandwidth:at:)`` or
        /// ``EngineScheduler/transferFailed(_:at:_:)``.
        case pull(EngineRequest)
        /// Nothing more is wanted of the remote engine: tell it so.
        case releaseRemote(EngineRequest)
        /// The contents of a block are computed.
        case fill(BlockID, BlockHash)
        /// A token is out, so long after the one before; nil for the first.
        case token(EngineRequest, interval: Duration?)
        /// The last token is out, and the request's blocks are free or pinned.
        case ended(EngineRequest)
        /// The request lost its blocks and its place, and waits again.
        case preempted(EngineRequest)
        /// Nobody came for the blocks of a pinned request in time.
        case leaseExpired(EngineRequest)
        /// Take blocks back from peers that may come for them late. Comes before whatever puts
        /// something else into them.
        case fence([BlockID])
    }

    /// The blocks.
    package private(set) var pool: BlockPool
    private let hasher: BlockHasher
    private let limits: Limits
    private var model: LatencyModel
    private var adapterMemory: AdapterMemory

    private var waitingToPull: [EngineRequest] = []
    private var pulling: [EngineRequest] = []
    private var arrived: [EngineRequest] = []
    private var waiting: [EngineRequest] = []
    private var prefill: (request: EngineRequest, ends: MonotonicTime)?
    private var decoding: [EngineRequest] = []
    private var step: (number: Int, ends: MonotonicTime)?
    private var stepsBegun = 0
    private var pinned: [String: EngineRequest] = [:]
    private var leases: [(expires: MonotonicTime, id: String)] = []
    /// When the link that transfers share is free again.
    private var linkFree = MonotonicTime(nanoseconds: 0)

    /// An idle engine with an empty cache.
    package init(pool: BlockPool, hasher: BlockHasher, model: LatencyModel, limits: Limits) {
        self.pool = pool
        self.hasher = hasher
        self.model = model
        self.limits = limits
        adapterMemory = AdapterMemory(capacity: limits.maxResidentAdapters)
    }

    /// Sequences in the batch.
    package var runningCount: Int { decoding.count + (prefill == nil ? 0 : 1) }
    /// Requests that wait for blocks or a place in the batch.
    package var capacityWaitingCount: Int { waiting.count + waitingToPull.count }
    /// Requests that wait for KV cache from elsewhere, or have just got it.
    package var transferWaitingCount: Int { pulling.count + arrived.count }

    /// The adapters in the batch.
    package var runningAdapters: Set<LoRAAdapter> {
        Set((decoding + [prefill?.request].compactMap(\.self)).compactMap(\.adapter))
    }
    /// The adapters of requests that wait for anything.
    package var waitingAdapters: Set<LoRAAdapter> {
        Set([waitingToPull, pulling, arrived, waiting].joined().compactMap(\.adapter))
    }

    /// Whether `count` more requests may wait.
    package func hasRoom(for count: Int) -> Bool {
        capacityWaitingCount + transferWaitingCount + count <= limits.maxWaiting
    }

    /// When ``advance(to:_:)`` has something to do next; nil while nothing runs or expires.
    package var nextDeadline: MonotonicTime? {
        var next: MonotonicTime?
        func consider(_ time: MonotonicTime) { next = min(next ?? time, time) }
        if let prefill { consider(prefill.ends) }
        if let step { consider(step.ends) }
        if let lease = leases.first { consider(lease.expires) }
        for request in pulling where request.state == .arriving { consider(request.arrives) }
        return next
    }

    /// Lets time pass.
    package mutating func advance(to now: MonotonicTime, _ events: inout [Event]) {
        while let time = nextDeadline, time <= now {
            for request in pulling where request.state == .arriving && request.arrives <= time {
                arrive(request)
            }
            if let prefill, prefill.ends <= time { endPrefill(at: time, &events) }
            if let step, step.ends <= time { endStep(at: time, &events) }
            expireLeases(at: time, &events)
            admit(at: time, &events)
            if step == nil, !decoding.isEmpty { beginStep(at: time, &events) }
        }
    }

    /// Takes a request. Whether there is room is for the caller to ask.
    package mutating func submit(
        _ request: EngineRequest, at now: MonotonicTime, _ events: inout [Event]
    ) {
        advance(to: now, &events)
        request.timeline.arrived = now
        let prompt = request.prompt
        let (first, others) = (request.extraKeys(ofBlock: 0), request.extraKeys(ofBlock: 1))
        request.chain =
            first == .none
            ? hasher.hashes(of: prompt.span)
            : hasher.hashes(of: prompt.span) { $0 == 0 ? first : others }
        if request.remote == nil {
            waiting.append(request)
        } else {
            request.state = .waitingToPull
            waitingToPull.append(request)
        }
        admit(at: now, &events)
    }

    /// Ends a request early and frees what it holds. The blocks of a transfer in flight stay its
    /// own until ``transferFailed(_:at:_:)``.
    package mutating func abort(
        _ request: EngineRequest, at now: MonotonicTime, _ events: inout [Event]
    ) {
        advance(to: now, &events)
        switch request.state {
        case .waiting:
            waiting.removeAll { $0 === request }
        case .waitingToPull:
            waitingToPull.removeAll { $0 === request }
            events.append(.releaseRemote(request))
        case .pulling:
            request.state = .cancelling
            return
        case .arriving:
            pulling.removeAll { $0 === request }
        case .arrived:
            arrived.removeAll { $0 === request }
        case .prefilling:
            prefill = nil
        case .decoding:
            decoding.removeAll { $0 === request }
            if decoding.isEmpty { step = nil }
        case .cancelling, .pinned, .ended:
            return
        }
        free(request, &events)
        admit(at: now, &events)
    }

    /// The bytes of a pull are here and right; they moved at `bandwidth` bytes per second of
    /// modelled time.
    package mutating func transferArrived(
        _ request: EngineRequest, bandwidth: Double, at now: MonotonicTime
    ) {
        linkFree =
            max(linkFree, request.pullBegan)
            + model.transfer(tokens: request.pulledTokenCount, bandwidth: bandwidth)
        request.arrives = max(linkFree, now)
        request.state = .arriving
    }

    /// A pull ended without its bytes, or they are wrong, or nobody wants them any longer.
    package mutating func transferFailed(
        _ request: EngineRequest, at now: MonotonicTime, _ events: inout [Event]
    ) {
        advance(to: now, &events)
        pulling.removeAll { $0 === request }
        free(request, &events)
        admit(at: now, &events)
    }

    /// Frees the blocks kept for another engine; nothing if they are not kept any longer.
    package mutating func unpin(
        _ id: String, at now: MonotonicTime, _ events: inout [Event]
    ) {
        advance(to: now, &events)
        guard let request = pinned.removeValue(forKey: id) else { return }
        free(request, &events)
        dropSpentLeases()
        admit(at: now, &events)
    }

    /// An adapter's weights are read before anybody asks for them.
    package mutating func preload(_ adapter: LoRAAdapter) { _ = adapterMemory.use(adapter) }

    /// Forgets the prefix cache; false, and nothing is changed, while a block is held.
    package mutating func resetPrefixCache() -> Bool { pool.reset() }

    /// What changed in the cached set since the last call.
    package mutating func takeCacheEvents() -> [KVEvent] { pool.takeEvents() }

    // MARK: - Admission

    private mutating func admit(at time: MonotonicTime, _ events: inout [Event]) {
        while let request = waitingToPull.first, place(request, &events) {
            waitingToPull.removeFirst()
            if request.pulled.isEmpty {
                request.state = .arrived
                arrived.append(request)
                events.append(.releaseRemote(request))
            } else {
                request.state = .pulling
                request.pullBegan = time
                pulling.append(request)
                events.append(.pull(request))
            }
        }
        while prefill == nil, decoding.count < limits.maxRunning {
            if let index = firstThatMayRun(arrived) {
                beginPrefill(arrived.remove(at: index), at: time)
            } else if let index = firstThatMayRun(waiting), place(waiting[index], &events) {
                beginPrefill(waiting.remove(at: index), at: time)
            } else {
                break
            }
        }
    }

    /// The first request whose adapter, if it has one, is in the batch or finds a place there.
    private func firstThatMayRun(_ requests: [EngineRequest]) -> Int? {
        guard limits.maxAdapters > 0, !requests.isEmpty else { return requests.indices.first }
        let running = runningAdapters
        return requests.firstIndex { request in
            guard let adapter = request.adapter else { return true }
            return running.contains(adapter) || running.count < limits.maxAdapters
        }
    }

    /// Gives a request the blocks of its tokens; false if they are not free.
    private mutating func place(_ request: EngineRequest, _ events: inout [Event]) -> Bool {
        // The last token is always computed, for the sake of the next one.
        let reusableCount = (request.tokenCount - 1) / pool.blockSize
        let hits = pool.cachedPrefix(of: request.chain.prefix(reusableCount))
        let total = blockCount(ofTokens: request.tokenCount)
        guard pool.freeCount - pool.freeCount(among: hits) >= total - hits.count else {
            return false
        }
        pool.hold(hits)
        request.blocks = hits
        for _ in hits.count..<total { request.blocks.append(pool.allocate()) }
        guard request.preemptionCount == 0 else {
            // What was pulled is not there to be pulled again.
            request.pulled = hits.count..<hits.count
            return true
        }
        let pulledEnd = max(min(request.remote?.blocks.count ?? 0, reusableCount), hits.count)
        request.pulled = hits.count..<pulledEnd
        request.cachedTokenCount = hits.count * pool.blockSize
        request.pulledTokenCount = request.pulled.count * pool.blockSize
        events.append(.admitted(request))
        return true
    }

    private func blockCount(ofTokens count: Int) -> Int {
        (count + pool.blockSize - 1) / pool.blockSize
    }

    // MARK: - Prefill and decode

    private mutating func arrive(_ request: EngineRequest) {
        pulling.removeAll { $0 === request }
        cache(request, request.pulled)
        request.state = .arrived
        arrived.append(request)
    }

    private mutating func beginPrefill(_ request: EngineRequest, at time: MonotonicTime) {
        let known = request.pulled.upperBound * pool.blockSize
        request.state = .prefilling
        if request.preemptionCount == 0 { request.timeline.scheduled = time }
        let isLoaded = request.adapter.map { adapterMemory.use($0) } ?? true
        prefill = (
            request,
            time + model.prefill(tokens: request.tokenCount - known)
                + (isLoaded ? .zero : model.adapterLoad)
        )
    }

    private mutating func endPrefill(at time: MonotonicTime, _ events: inout [Event]) {
        guard let request = prefill?.request else { return }
        prefill = nil
        extendChain(of: request, toBlock: request.tokenCount / pool.blockSize)
        let computed = request.pulled.upperBound..<request.chain.count
        for index in computed {
            events.append(.fill(request.blocks[index], request.chain[index]))
        }
        cache(request, computed)
        produce(request, at: time, &events)
        guard !request.hasEnded else { return }
        request.state = .decoding
        decoding.append(request)
        request.firstStep = stepsBegun + 1
    }

    private mutating func beginStep(at time: MonotonicTime, _ events: inout [Event]) {
        var index = 0
        while index < decoding.count {
            let request = decoding[index]
            // The token to compute is the last one that is out.
            if request.tokenCount > request.blocks.count * pool.blockSize {
                while pool.freeCount == 0, preemptLast(&events) !== request {}
                guard request.state == .decoding else { break }
                request.blocks.append(pool.allocate())
            }
            index += 1
        }
        guard !decoding.isEmpty else {
            // They gave way to blocks that nobody runs on.
            admit(at: time, &events)
            return
        }
        stepsBegun += 1
        step = (stepsBegun, time + model.step(running: runningCount))
    }

    private mutating func endStep(at time: MonotonicTime, _ events: inout [Event]) {
        guard let number = step?.number else { return }
        for request in decoding where request.firstStep <= number {
            compute(request, &events)
            produce(request, at: time, &events)
        }
        decoding.removeAll(where: \.hasEnded)
        step = nil
    }

    /// Takes the blocks of the request that began last, and its place in the batch.
    private mutating func preemptLast(_ events: inout [Event]) -> EngineRequest? {
        guard let request = prefill?.request ?? decoding.last else { return nil }
        if prefill == nil { decoding.removeLast() } else { prefill = nil }
        release(request, &events)
        request.preemptionCount += 1
        request.state = .waiting
        waiting.insert(request, at: 0)
        events.append(.preempted(request))
        return request
    }

    /// Computes the KV cache of the last token that is out.
    private mutating func compute(_ request: EngineRequest, _ events: inout [Event]) {
        guard request.tokenCount % pool.blockSize == 0 else { return }
        let index = request.tokenCount / pool.blockSize - 1
        extendChain(of: request, toBlock: index + 1)
        events.append(.fill(request.blocks[index], request.chain[index]))
        cache(request, index..<index + 1)
    }

    /// Hashes full blocks of what was generated.
    private func extendChain(of request: EngineRequest, toBlock end: Int) {
        while request.chain.count < end {
            let index = request.chain.count
            let first = index * pool.blockSize
            let tokens = (first..<first + pool.blockSize).map(request.token(at:))
            var chain = hasher.chain(after: request.chain.last)
            request.chain += chain.append(
                tokens.span, extraKeys: request.extraKeys(ofBlock: index))
        }
    }

    /// Puts out the next token, and ends the request with the last one.
    private mutating func produce(
        _ request: EngineRequest, at time: MonotonicTime, _ events: inout [Event]
    ) {
        request.generatedCount += 1
        if request.generatedCount == 1 {
            request.timeline.firstToken = time
            events.append(.token(request, interval: nil))
        } else {
            events.append(.token(request, interval: time - request.timeline.lastToken))
        }
        request.timeline.lastToken = time
        guard request.hasEnded else { return }
        if request.keepsBlocks {
            request.state = .pinned
            pinned[request.id] = request
            leases.append((time + limits.lease, request.id))
        } else {
            free(request, &events)
        }
        events.append(.ended(request))
    }

    // MARK: - Blocks

    private mutating func cache(_ request: EngineRequest, _ indices: Range<Int>) {
        guard !indices.isEmpty else { return }
        let first = indices.lowerBound * pool.blockSize
        let end = indices.upperBound * pool.blockSize
        let tokens =
            end <= request.prompt.count
            ? request.prompt[first..<end] : (first..<end).map(request.token(at:))[...]
        pool.cache(
            request.blocks[indices], chain: request.chain[indices], tokens: tokens,
            parent: indices.lowerBound == 0 ? nil : request.chain[indices.lowerBound - 1],
            adapter: request.adapter, salt: indices.lowerBound == 0 ? request.salt : nil)
    }

    private mutating func free(
        _ request: EngineRequest, revoking: Bool = false, _ events: inout [Event]
    ) {
        release(request, revoking: revoking, &events)
        request.state = .ended
    }

    private mutating func release(
        _ request: EngineRequest, revoking: Bool = false, _ events: inout [Event]
    ) {
        let fenced = pool.release(request.blocks, revoking: revoking)
        if !fenced.isEmpty { events.append(.fence(fenced)) }
        request.blocks = []
    }

    private mutating func expireLeases(at time: MonotonicTime, _ events: inout [Event]) {
        while let lease = leases.first, lease.expires <= time {
            leases.removeFirst()
            if let request = pinned.removeValue(forKey: lease.id) {
                events.append(.leaseExpired(request))
                free(request, revoking: true, &events)
            }
        }
        dropSpentLeases()
    }

    /// Keeps the first lease one that somebody holds, so that no deadline comes for nothing.
    private mutating func dropSpentLeases() {
        while let lease = leases.first, pinned[lease.id] == nil { leases.removeFirst() }
    }
}

extension EngineRequest {
    /// What the hash of a block covers beside the tokens.
    fileprivate func extraKeys(ofBlock index: Int) -> BlockExtraKeys {
        let lora = adapter.map {
            BlockExtraKey.lora(name: $0.module.name, path: $0.module.path)
        }
        let salt = index == 0 ? salt.map { BlockExtraKey.cacheSalt($0) } : nil
        return BlockExtraKeys([lora, salt].compactMap(\.self))
    }
}
