import Core
import Hashing
import Messaging
import Net
import Telemetry
import Transfer

/// The simulated engine on its loop: carries out what the scheduler decides, in real memory and
/// real time, and tells the owners of requests.
final class Engine: @unchecked Sendable {
    // Proof for the annotation: made on its loop and touched there alone, from the callbacks of
    // that loop's server, timers and descriptors.

    let configuration: SimulatorConfiguration
    let metrics: SimulatorMetrics
    /// How other engines reach its KV blocks.
    var transferIdentity: TransferIdentity { transport.identity }
    /// What goes with the numbers of blocks that a request holds. Blocks are not fenced while they
    /// are held, so any moment of that will do.
    var poolEpoch: UInt64 { transport.region.epoch }
    /// Names this engine's configuration in replies.
    let fingerprint: String

    private typealias Action = (
        inout EngineScheduler, MonotonicTime, inout [EngineScheduler.Event]
    ) -> Void

    /// The adapters that requests may ask for.
    private(set) var adapters: LoRAAdapters

    private let loop: EventLoop
    private var scheduler: EngineScheduler
    private let transport: KVTransport
    private let publisher: KVEventPublisher?
    private var timer: (deadline: MonotonicTime, timer: Net.Timer)?
    private var actions: [Action] = []
    private var isPerforming = false
    private var events: [EngineScheduler.Event] = []
    private var generator: SeededGenerator
    /// Which generations fail on purpose.
    var failures: FailureInjection

    /// Allocates the pool and opens the sockets, on `loop`.
    init(
        _ configuration: SimulatorConfiguration, context: MessagingContext, on loop: EventLoop
    ) throws(SimulatorError) {
        loop.preconditionInLoop()
        self.configuration = configuration
        self.loop = loop
        adapters = LoRAAdapters(configuration.adapters)
        let hasher: BlockHasher
        do {
            hasher = try BlockHasher(
                seed: configuration.hashSeed, blockSize: configuration.blockSize)
        } catch {
            throw .invalid(option: "block size", problem: "\(error)")
        }
        scheduler = EngineScheduler(
            pool: BlockPool(count: configuration.blockCount, blockSize: configuration.blockSize),
            hasher: hasher,
            model: LatencyModel(
                configuration.latency, maxRunning: configuration.maximumRunning,
                seed: configuration.seed),
            limits: .init(
                maxRunning: configuration.maximumRunning, maxWaiting: configuration.maximumWaiting,
                maxAdapters: configuration.maximumAdapters,
                maxResidentAdapters: configuration.residentAdapters, lease: configuration.lease))
        for adapter in adapters.all { scheduler.preload(adapter) }
        metrics = SimulatorMetrics(configuration)
        transport = try KVTransport(configuration, on: loop)
        fingerprint = "llmd-sim-\(transport.identity.engineID.prefix(8))"
        generator = SeededGenerator(seed: configuration.seed)
        failures = FailureInjection(
            percent: configuration.failurePercent, kinds: configuration.failureKinds,
            seed: configuration.seed)
        publisher = try Self.publisher(configuration, context: context, on: loop)
        try transport.start(
            .init(
                pullEnded: { [unowned self] in pullEnded($0, $1) },
                released: { [unowned self] id in
                    perform { $0.unpin(id, at: $1, &$2) }
                }))
    }

    private static func publisher(
        _ configuration: SimulatorConfiguration, context: MessagingContext, on loop: EventLoop
    ) throws(SimulatorError) -> KVEventPublisher? {
        guard let endpoint = configuration.eventsEndpoint else { return nil }
        var options = KVEventPublisher.Configuration()
        options.endpoint = endpoint
        options.replayEndpoint = configuration.replayEndpoint
        options.topic = configuration.topic
        do {
            return try KVEventPublisher(context: context, on: loop, configuration: options)
        } catch {
            throw .cannotStart(part: "KV events on \(endpoint)", reason: "\(error)")
        }
    }

    /// Closes timers and sockets. Requests that are left hear nothing more.
    func close() {
        timer?.timer.cancel()
        timer = nil
        publisher?.close()
        transport.close()
    }

    /// Requests that were taken and have not ended.
    var requestCount: Int {
        scheduler.runningCount + scheduler.capacityWaitingCount + scheduler.transferWaitingCount
    }

    /// The publisher's endpoints as bound; nil without events.
    var eventEndpoints: (live: String, replay: String?)? {
        publisher.map { ($0.endpoint, $0.replayEndpoint) }
    }

    /// A seed for replies that are to differ from all others.
    func nextSeed() -> UInt64 { generator.next() }

    /// Whether `count` more requests may come.
    func hasRoom(for count: Int) -> Bool { scheduler.hasRoom(for: count) }

    /// Takes requests; their delegates hear of them.
    func submit(_ requests: [EngineRequest]) {
        perform { scheduler, now, events in
            for request in requests { scheduler.submit(request, at: now, &events) }
        }
    }

    /// Ends a request early; it hears nothing more.
    func abort(_ request: EngineRequest) {
        perform { [unowned self] scheduler, now, events in
            guard request.state != .ended, request.state != .pinned else { return }
            scheduler.abort(request, at: now, &events)
            if request.state == .cancelling { transport.cancel(request) }
            metrics.aborted()
        }
    }

    /// Forgets the prefix cache; false while a block is held.
    func resetPrefixCache() -> Bool {
        defer { publish() }
        return scheduler.resetPrefixCache()
    }

    /// Loads an adapter, as ``LoRAAdapters/load(_:inPlace:)`` does, and reads its weights.
    func loadAdapter(_ module: LoRAModule, inPlace: Bool) throws(APIError) {
        scheduler.preload(try adapters.load(module, inPlace: inPlace))
    }

    /// Unloads an adapter, as ``LoRAAdapters/unload(_:)`` does.
    func unloadAdapter(_ name: String) throws(APIError) { try adapters.unload(name) }

    /// The bytes of a block.
    func memory(ofBlock block: Int) -> UnsafeMutableRawBufferPointer { transport.region[block] }

    /// The page of `/metrics`.
    func metricsPage() -> [UInt8] { metrics.page(scheduler) }

    // MARK: - The scheduler's orders

    /// Runs an action of the scheduler and carries out what comes of it. What the owners of
    /// requests ask for meanwhile comes after, so that orders are carried out in their order.
    private func perform(_ action: @escaping Action) {
        actions.append(action)
        guard !isPerforming else { return }
        isPerforming = true
        while !actions.isEmpty {
            actions.removeFirst()(&scheduler, .now, &events)
            for event in events { carryOut(event) }
            events.removeAll(keepingCapacity: true)
        }
        isPerforming = false
        publish()
        arm()
    }

    private func carryOut(_ event: EngineScheduler.Event) {
        switch event {
        case .admitted(let request): metrics.admitted(request)
        case .pull(let request):
            if let remote = request.remote { transport.pull(request, from: remote) }
        case .releaseRemote(let request):
            if let remote = request.remote { transport.release(remote) }
        case .fill(let block, let hash): transport.fill(block, BlockPattern.Key(hash))
        case .token(let request, let interval):
            metrics.token(request, interval: interval)
            request.delegate?.requestProducedToken(request)
        case .ended(let request): metrics.ended(request)
        case .preempted: metrics.preempted()
        case .leaseExpired: metrics.leaseExpired()
        case .fence(let blocks): transport.fence(blocks)
        }
    }

    private func pullEnded(_ request: EngineRequest, _ outcome: KVTransport.Outcome) {
        if case .arrived(let path, let byteCount, let time) = outcome, request.state == .pulling {
            metrics.transferred(
                blocks: request.pulled.count, bytes: byteCount, over: path, in: time)
            perform { scheduler, now, events in
                scheduler.advance(to: now, &events)
                scheduler.transferArrived(
                    request, bandwidth: LatencyConstants.bandwidth(of: path).value, at: now)
            }
            return
        }
        let isWanted = request.state == .pulling
        perform { $0.transferFailed(request, at: $1, &$2) }
        guard isWanted else { return }
        let reason: String
        switch outcome {
        case .arrived: return
        case .mismatched(let count):
            metrics.mismatched(blocks: count)
            reason = "\(count) of \(request.pulled.count) KV blocks arrived with wrong bytes."
        case .failed(let error):
            metrics.transferFailed(error)
            reason = "The KV blocks could not be pulled: \(error)."
        }
        metrics.failed()
        request.delegate?.request(
            request,
            failed: APIError(status: 500, type: "InternalServerError", message: reason))
    }

    private func publish() {
        let events = scheduler.takeCacheEvents()
        guard let publisher, !events.isEmpty else { return }
        publisher.publish(
            KVEvent.encode(events, time: wallClockSeconds(), blockSize: configuration.blockSize))
    }

    /// One timer, for the next thing that happens; none while nothing does.
    private func arm() {
        let deadline = scheduler.nextDeadline
        guard deadline != timer?.deadline else { return }
        timer?.timer.cancel()
        timer = deadline.map { deadline in
            let delay = deadline - .now
            let timer = loop.schedule(after: max(delay, .zero)) { [unowned self] in
                self.timer = nil
                perform { $0.advance(to: $1, &$2) }
            }
            return (deadline, timer)
        }
    }
}
