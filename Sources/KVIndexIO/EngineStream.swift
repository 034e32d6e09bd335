import Core
import KVIndex
import Logging
import Messaging
import Net
import Telemetry

/// The KV events of one engine, which is a model server or one of its ranks, from its sockets into
/// the index. Loop-bound.
final class EngineStream {
    /// What the streams of a source share.
    struct Environment {
        let index: KVIndex
        let context: MessagingContext
        let loop: EventLoop
        let configuration: KVEventSource.Configuration
        let metrics: KVIndexMetrics
        let logger: Logger
        let gate: ReplayGate
        var sharing: (any IndexSharing)?
    }

    private struct Held {
        var sequence: UInt64
        var model: String
        var payload: [UInt8]
    }

    /// Batches held during a replay; what does not fit is seen as a gap afterwards.
    private static let maximumHeldBytes = 16 << 20
    private static let maximumHeldCount = 10_000
    /// A batch larger than this is not kept as memory for the next one.
    private static let keptTokenCount = 1 << 18

    let server: ModelServer
    let endpoint: EndpointHandle
    let report: EngineReport
    private let environment: Environment
    private var tracker: SequenceTracker
    private var quarantine: SourceQuarantine
    private var subscriber: KVEventSubscriber?
    private var replay: KVReplayClient?
    private var timer: Timer?
    private var timerDeadline: MonotonicTime?
    private var batch = KVEventBatch()
    private var changes: [BlockChange] = []
    private var held: [Held] = []
    private var heldBytes = 0
    private var topic: [UInt8]?
    private var model: String
    private var isConnected = false
    private var connectionCount = 0
    private var decodeErrorCount = 0

    init(_ server: ModelServer, _ endpoint: EndpointHandle, _ environment: Environment) {
        self.server = server
        self.endpoint = endpoint
        self.environment = environment
        report = EngineReport(name: server.name, endpoint: endpoint)
        model = server.eventsModel ?? environment.configuration.defaultModel
        var policy = environment.configuration.tracking
        policy.canReplay = server.replayEndpoint != nil
        tracker = SequenceTracker(policy: policy)
        quarantine = SourceQuarantine(policy: environment.configuration.quarantine)
        open()
    }

    func close() {
        if quarantine.end != nil { environment.metrics.quarantinedEngines.decrement() }
        shut()
    }

    /// Closes what is open.
    private func shut() {
        if isConnected { environment.metrics.activeSubscribers.decrement() }
        isConnected = false
        timer?.cancel()
        timer = nil
        timerDeadline = nil
        subscriber?.close()
        subscriber = nil
        stopReplay()
        dropHeld()
    }

    private func dropHeld() {
        held = []
        heldBytes = 0
    }

    /// Shows others what is now so.
    private func tell() {
        report.change { state in
            state.isConnected = isConnected
            state.sequence = tracker.counters
            state.heldCount = held.count
            state.decodeErrorCount = decodeErrorCount
            state.quarantineCount = quarantine.count
            state.quarantineEnd = quarantine.end
        }
    }

    // MARK: - The subscription

    /// In fan-in mode there is nothing to open: the source hands over the engine's batches.
    private func open() {
        guard let endpoint = server.eventsEndpoint else { return }
        do {
            subscriber = try KVEventSubscriber(
                context: environment.context, on: environment.loop, mode: .connect(endpoint),
                configuration: environment.configuration.subscription
            ) { [weak self] event in self?.received(event) }
        } catch {
            environment.metrics.zmqErrors.increment()
            environment.logger.error(
                "no KV events: \(error)", metadata: ["endpoint": "\(server.name)"])
            timer = environment.loop.schedule(after: environment.configuration.reopenDelay) {
                [weak self] in self?.open()
            }
        }
    }

    private func received(_ event: KVEventSubscriber.Event) {
        switch event {
        case .batch(let topic, let sequence, let payload):
            return received(topic: topic, sequence: sequence, payload: payload)
        case .connected:
            guard !isConnected else { return }
            isConnected = true
            connectionCount += 1
            environment.metrics.activeSubscribers.increment()
            if connectionCount > 1 { environment.metrics.reconnections.increment() }
            change { $0.connected(at: .now) }
        case .disconnected:
            guard isConnected else { return }
            isConnected = false
            environment.metrics.activeSubscribers.decrement()
            change { $0.disconnected() }
            environment.sharing?.lost(server.name)
        case .malformed:
            environment.metrics.zmqErrors.increment()
            misbehaved()
        }
        tell()
    }

    /// Takes a live batch.
    func received(
        topic: UnsafeRawBufferPointer, sequence: UInt64, payload: UnsafeRawBufferPointer
    ) {
        environment.metrics.messages.increment()
        guard quarantine.end == nil else { return }
        defer { tell() }
        readModel(topic)
        let before = tracker.counters
        let decision = tracker.live(
            sequence, fingerprint: Self.fingerprint(of: payload), at: .now)
        act(decision, sequence, payload, model: model, since: before)
    }

    /// A batch that could not be read came from this engine, or from another rank beside it.
    func mayHaveSentUnreadable() {
        guard quarantine.end == nil else { return }
        decodeErrorCount += 1
        misbehaved()
        tell()
    }

    /// The topic is the same in every batch of an engine. Before vLLM 0.26 replays do not carry it:
    /// until the first live batch the configured model stands in.
    private func readModel(_ topic: UnsafeRawBufferPointer) {
        if let known = self.topic, known.elementsEqual(topic) { return }
        self.topic = Array(topic)
        model =
            EventTopic(topic).model ?? server.eventsModel
            ?? environment.configuration.defaultModel
        if model.isEmpty {
            environment.logger.warning(
                "the topic of the KV events names no model, and none is configured",
                metadata: ["endpoint": "\(server.name)"])
        }
    }

    /// Tells batches of different processes apart: a batch begins with the time when it was sent.
    private static func fingerprint(of payload: UnsafeRawBufferPointer) -> UInt64 {
        var hasher = Hasher()
        hasher.combine(payload.count)
        hasher.combine(bytes: UnsafeRawBufferPointer(rebasing: payload.prefix(64)))
        return UInt64(bitPattern: Int64(hasher.finalize()))
    }

    // MARK: - What the tracker decides

    private func change(_ body: (inout SequenceTracker) -> [SequenceTracker.Command]) {
        let before = tracker.counters
        let commands = body(&tracker)
        environment.metrics.add(tracker.counters, since: before)
        perform(commands)
        scheduleTick()
    }

    private func act(
        _ decision: SequenceTracker.Decision, _ sequence: UInt64,
        _ payload: UnsafeRawBufferPointer, model: String, since before: SequenceTracker.Counters
    ) {
        environment.metrics.add(tracker.counters, since: before)
        if !decision.commands.isEmpty {
            perform(decision.commands)
            scheduleTick()
        }
        // Batches that were held may have begun one.
        guard quarantine.end == nil else { return }
        switch decision.disposition {
        case .apply: apply(payload, model: model)
        case .hold: hold(sequence, payload, model: model)
        case .discard: break
        }
    }

    private func perform(_ commands: [SequenceTracker.Command]) {
        for command in commands {
            switch command {
            case .clear:
                environment.logger.notice(
                    "the engine's blocks are forgotten: it restarted, or its events are lost",
                    metadata: ["endpoint": "\(server.name)"])
                forget()
            case .dropHeld: dropHeld()
            case .releaseHeld: releaseHeld()
            case .startReplay(let start): startReplay(from: start)
            case .stopReplay: stopReplay()
            }
        }
    }

    private func forget() {
        quarantine.forgot()
        environment.index.clear(endpoint)
        environment.sharing?.applied([.cleared], at: server.name)
    }

    private func apply(_ payload: UnsafeRawBufferPointer, model: String) {
        do {
            try KVEventDecoder.decode(payload, into: &batch)
        } catch {
            decodeErrorCount += 1
            environment.metrics.decodeErrors.increment()
            environment.logger.debug(
                "bad KV events: \(error)", metadata: ["endpoint": "\(server.name)"])
            environment.metrics.lost.increment()
            tracker.couldNotRead()
            misbehaved()
            return
        }
        environment.metrics.unknownEvents.increment(by: batch.unknownEventCount)
        if let sharing = environment.sharing {
            changes.removeAll(keepingCapacity: true)
            environment.index.apply(batch, from: endpoint, model: model, recording: &changes)
            sharing.applied(changes, at: server.name)
        } else {
            environment.index.apply(batch, from: endpoint, model: model)
        }
        if batch.tokens.count > Self.keptTokenCount { batch = KVEventBatch() }
    }

    private func hold(_ sequence: UInt64, _ payload: UnsafeRawBufferPointer, model: String) {
        guard held.count < Self.maximumHeldCount,
            heldBytes + payload.count <= Self.maximumHeldBytes
        else { return }
        held.append(Held(sequence: sequence, model: model, payload: Array(payload)))
        heldBytes += payload.count
    }

    private func releaseHeld() {
        let batches = held
        dropHeld()
        for batch in batches where quarantine.end == nil {
            batch.payload.withUnsafeBytes { payload in
                let before = tracker.counters
                let decision = tracker.released(
                    batch.sequence, fingerprint: Self.fingerprint(of: payload), at: .now)
                act(decision, batch.sequence, payload, model: batch.model, since: before)
            }
        }
    }

    // MARK: - Quarantine

    /// The engine sent what is no batch of KV events.
    private func misbehaved() {
        switch quarantine.malformed(at: .now) {
        case .bear: break
        case .forget:
            environment.logger.notice(
                "the engine's blocks are forgotten: too many of its KV events cannot be read",
                metadata: ["endpoint": "\(server.name)"])
            forget()
        case .quarantine: beginQuarantine()
        }
    }

    private func beginQuarantine() {
        guard let end = quarantine.end else { return }
        let duration = end - .now
        environment.metrics.quarantines.increment()
        environment.metrics.quarantinedEngines.increment()
        environment.logger.warning(
            "the engine's KV events cannot be read: they are ignored for a while",
            metadata: [
                "endpoint": "\(server.name)", "seconds": "\(Int(duration.seconds.rounded()))",
            ])
        shut()
        _ = tracker.disconnected()
        forget()
        environment.sharing?.lost(server.name)
        timer = environment.loop.schedule(after: duration) { [weak self] in self?.endQuarantine() }
    }

    /// What comes now is taken as after a lost connection: the engine replays what it has sent
    /// since, or shows that it is another process.
    private func endQuarantine() {
        timer = nil
        guard quarantine.tick(.now) else {
            // The timer's clock is coarser.
            return timer = environment.loop.schedule(after: .milliseconds(1)) { [weak self] in
                self?.endQuarantine()
            }
        }
        environment.metrics.quarantinedEngines.decrement()
        environment.logger.notice(
            "the engine's KV events are read again", metadata: ["endpoint": "\(server.name)"])
        connectionCount = 0
        open()
        tell()
    }

    // MARK: - Replays

    private func startReplay(from start: UInt64) {
        environment.gate.enter(self) { [weak self] in self?.requestReplay(from: start) }
    }

    private func stopReplay() {
        replay?.cancel()
        replay = nil
        environment.gate.leave(self)
    }

    private func requestReplay(from start: UInt64) {
        guard let endpoint = server.replayEndpoint else { return }
        do {
            replay = try KVReplayClient(
                context: environment.context, on: environment.loop, endpoint: endpoint,
                from: start, idleTimeout: environment.configuration.replayIdleTimeout,
                maximumMessageBytes: environment.configuration.subscription.maximumMessageBytes
            ) { [weak self] event in self?.replayed(event) }
        } catch {
            // Not from inside the tracker's own command.
            environment.loop.schedule(after: .zero) { [weak self] in self?.replayed(.failed(error))
            }
        }
    }

    private func replayed(_ event: KVReplayClient.Event) {
        defer { tell() }
        switch event {
        case .batch(let topic, let sequence, let payload):
            environment.metrics.messages.increment()
            if let topic { readModel(topic) }
            let before = tracker.counters
            let decision = tracker.replayed(
                sequence, fingerprint: Self.fingerprint(of: payload), at: .now)
            act(decision, sequence, payload, model: model, since: before)
        case .finished:
            stopReplay()
            change { $0.replayEnded(at: .now) }
            // An engine that is idle shows so that nothing was missed.
            if tracker.isFollowing { environment.sharing?.applied([], at: server.name) }
        case .failed(let error):
            stopReplay()
            environment.metrics.zmqErrors.increment()
            environment.logger.info(
                "replay failed: \(error)", metadata: ["endpoint": "\(server.name)"])
            change { $0.replayFailed(at: .now) }
        }
    }

    private func scheduleTick() {
        guard tracker.deadline != timerDeadline else { return }
        timer?.cancel()
        timerDeadline = tracker.deadline
        timer = timerDeadline.map { deadline in
            environment.loop.schedule(after: deadline - .now) { [weak self] in
                guard let self else { return }
                timerDeadline = nil
                change { $0.tick(.now) }
                tell()
            }
        }
    }
}
