public import Core

/// Follows the sequence numbers of one engine's batches and decides what to apply, what to ask for
/// again, and when the engine is not the process that it was. It does no I/O.
///
/// Engines number batches from 0 per process and name no process. So a replay begins with the last
/// batch that was applied: if the engine does not have it, or has another one under its number,
/// the process is new and its blocks are gone.
public struct SequenceTracker: Sendable {
    /// How replays are tried.
    public struct Policy: Equatable, Sendable {
        /// Whether the engine has a replay endpoint.
        public var canReplay = true
        /// The time before a failed replay is tried again.
        public var retryDelay = Duration.milliseconds(100)
        /// How many replays in a row may bring nothing before the tracker goes on without.
        public var fruitlessLimit = 3
        /// How long one catching up, retries included, may take.
        public var totalTime = Duration.seconds(120)
        /// How long no replay is tried after giving up.
        public var cooldown = Duration.seconds(30)

        /// Replays, with the delays above.
        public init() {}
    }

    /// What the caller is to do, in the order given.
    public enum Command: Equatable, Sendable {
        /// Drop all blocks of the engine.
        case clear
        /// Drop the batches that are held.
        case dropHeld
        /// Give each batch that is held to ``released(_:fingerprint:at:)``, in their order.
        case releaseHeld
        /// Ask for a replay.
        case startReplay(from: UInt64)
        /// Cancel the replay.
        case stopReplay
    }

    /// What to do with a batch, after the commands.
    public enum Disposition: Equatable, Sendable {
        /// Apply it to the index.
        case apply
        /// Keep a copy until the held batches are released or dropped. If there is no room it may
        /// be dropped: the gap will be seen.
        case hold
        /// It is known already, or useless.
        case discard
    }

    /// The answer to a batch.
    public struct Decision: Equatable, Sendable {
        /// Before anything else.
        public var commands: [Command] = []
        /// Then.
        public var disposition: Disposition
    }

    /// What happened so far.
    public struct Counters: Equatable, Sendable {
        /// The sequence number of the last batch applied; nil before the first.
        public var lastSequence: UInt64?
        /// The highest sequence number seen live.
        public var lastLiveSequence: UInt64?
        /// Times that batches were missing.
        public var gapCount = 0
        /// Batches that were missing and never came, or could not be read.
        public var lostCount: UInt64 = 0
        /// Replays asked for.
        public var replayCount = 0
        /// Replays given up.
        public var failedReplayCount = 0
        /// New processes found under the same endpoint.
        public var restartCount = 0

        /// Nothing yet.
        public init() {}
    }

    private enum Phase: Equatable {
        /// Not connected.
        case offline
        /// Batches are applied as they come.
        case following
        case replaying(Replay)
        /// Between two tries.
        case waiting(Replay, until: MonotonicTime)
    }

    private struct Replay: Equatable {
        /// When the first try began.
        let since: MonotonicTime
        /// Whether the engine showed the last batch applied, or there is none.
        var isVerified: Bool
        /// Whether this try brought a batch to apply.
        var isFruitful = false
    }

    private let policy: Policy
    private var phase = Phase.offline
    private var fingerprint: UInt64 = 0
    private var fruitlessCount = 0
    private var cooldownEnd: MonotonicTime?

    /// What happened so far.
    public private(set) var counters = Counters()

    /// A tracker of an engine that is not connected yet.
    public init(policy: Policy = Policy()) {
        self.policy = policy
    }

    /// Whether batches are applied as they come.
    public var isFollowing: Bool { phase == .following }

    /// When ``tick(_:)`` is to be called; nil if it need not be.
    public var deadline: MonotonicTime? {
        switch phase {
        case .offline, .following: nil
        case .replaying(let replay): replay.since + policy.totalTime
        case .waiting(_, let until): until
        }
    }

    // MARK: - The connection

    /// The subscription is up: batches sent from now on arrive.
    public mutating func connected(at now: MonotonicTime) -> [Command] {
        var commands: [Command] = isReplaying ? [.stopReplay] : []
        cooldownEnd = nil
        fruitlessCount = 0
        commands += begin(at: now)
        return commands
    }

    /// The subscription was lost.
    public mutating func disconnected() -> [Command] {
        defer { phase = .offline }
        return isReplaying ? [.stopReplay, .dropHeld] : [.dropHeld]
    }

    // MARK: - Batches

    /// A batch came by the subscription. `fingerprint` is a hash of its payload.
    public mutating func live(
        _ sequence: UInt64, fingerprint: UInt64, at now: MonotonicTime
    ) -> Decision {
        if let highest = counters.lastLiveSequence, sequence <= highest {
            var decision = restarted(at: now)
            counters.lastLiveSequence = sequence
            if phase == .following {
                applied(sequence, fingerprint)
                decision.disposition = .apply
            } else {
                decision.disposition = .hold
            }
            return decision
        }
        counters.lastLiveSequence = sequence
        switch phase {
        case .offline where isNext(sequence), .following:
            return follow(sequence, fingerprint, at: now)
        case .offline:
            // The news of the connection is on its way.
            let commands = connected(at: now)
            guard phase == .following else {
                return Decision(commands: commands, disposition: .hold)
            }
            var decision = follow(sequence, fingerprint, at: now)
            decision.commands = commands + decision.commands
            return decision
        case .replaying, .waiting:
            return Decision(disposition: .hold)
        }
    }

    /// A batch that was held is given again after ``Command/releaseHeld``.
    public mutating func released(
        _ sequence: UInt64, fingerprint: UInt64, at now: MonotonicTime
    ) -> Decision {
        phase == .following
            ? follow(sequence, fingerprint, at: now) : Decision(disposition: .hold)
    }

    private func isNext(_ sequence: UInt64) -> Bool {
        counters.lastSequence.map { sequence == $0 &+ 1 } ?? false
    }

    private mutating func follow(
        _ sequence: UInt64, _ fingerprint: UInt64, at now: MonotonicTime
    ) -> Decision {
        if let last = counters.lastSequence, !isNext(sequence) {
            guard sequence > last else { return Decision(disposition: .discard) }
            counters.gapCount += 1
            if mayReplay(at: now) {
                return Decision(commands: begin(at: now), disposition: .hold)
            }
            lost(sequence - last - 1)
            fruitlessCount = 0
        } else if counters.lastSequence == nil, sequence > 0, mayReplay(at: now) {
            // The replay from the start brought nothing, and yet this is not the first batch.
            counters.gapCount += 1
            return Decision(commands: begin(at: now), disposition: .hold)
        }
        applied(sequence, fingerprint)
        return Decision(disposition: .apply)
    }

    /// The batch that was applied last could not be read: what it told is lost.
    public mutating func couldNotRead() { lost(1) }

    /// Sequence numbers are what engines claim: the sum may be more than a number holds.
    private mutating func lost(_ count: UInt64) {
        let (sum, isOver) = counters.lostCount.addingReportingOverflow(count)
        counters.lostCount = isOver ? .max : sum
    }

    private mutating func applied(_ sequence: UInt64, _ fingerprint: UInt64) {
        counters.lastSequence = sequence
        self.fingerprint = fingerprint
    }

    // MARK: - Replays

    /// A batch came by the replay.
    public mutating func replayed(
        _ sequence: UInt64, fingerprint: UInt64, at now: MonotonicTime
    ) -> Decision {
        guard case .replaying(var replay) = phase else { return Decision(disposition: .discard) }
        var commands: [Command] = []
        if let last = counters.lastSequence {
            if sequence < last { return Decision(disposition: .discard) }
            if sequence == last {
                // The batch itself, or another process's batch of the same number.
                guard fingerprint == self.fingerprint else {
                    return restarted(at: now)
                }
                replay.isVerified = true
                phase = .replaying(replay)
                return Decision(disposition: .discard)
            }
            if !replay.isVerified {
                // The engine has dropped so many batches that nothing is known for sure.
                lost(sequence - last - 1)
                commands = [.clear]
                replay.isVerified = true
            } else if !isNext(sequence) {
                // The engine's socket dropped a part of the replay.
                commands = [.stopReplay] + retry(replay, at: now)
                return Decision(commands: commands, disposition: .discard)
            }
        }
        replay.isFruitful = true
        fruitlessCount = 0
        phase = .replaying(replay)
        applied(sequence, fingerprint)
        return Decision(commands: commands, disposition: .apply)
    }

    /// The engine has sent all that it had.
    public mutating func replayEnded(at now: MonotonicTime) -> [Command] {
        guard case .replaying(let replay) = phase else { return [] }
        guard replay.isVerified else { return restarted(at: now).commands }
        if !replay.isFruitful { fruitlessCount += 1 }
        phase = .following
        return [.releaseHeld]
    }

    /// The replay was cut short, or could not begin.
    public mutating func replayFailed(at now: MonotonicTime) -> [Command] {
        guard case .replaying(let replay) = phase else { return [] }
        return retry(replay, at: now)
    }

    /// The deadline has come.
    public mutating func tick(_ now: MonotonicTime) -> [Command] {
        guard let deadline, deadline <= now else { return [] }
        switch phase {
        case .waiting(let replay, _):
            return start(replay)
        case .replaying:
            return [.stopReplay] + giveUp(at: now)
        case .offline, .following:
            return []
        }
    }

    private var isReplaying: Bool {
        if case .replaying = phase { true } else { false }
    }

    private func mayReplay(at now: MonotonicTime) -> Bool {
        policy.canReplay && fruitlessCount < policy.fruitlessLimit
            && cooldownEnd.map { $0 <= now } ?? true
    }

    /// Begins to catch up, where that is possible; else follows from here on.
    private mutating func begin(at now: MonotonicTime) -> [Command] {
        guard mayReplay(at: now) else {
            phase = .following
            return [.releaseHeld]
        }
        return start(Replay(since: now, isVerified: counters.lastSequence == nil))
    }

    private mutating func start(_ replay: Replay) -> [Command] {
        var replay = replay
        replay.isFruitful = false
        replay.isVerified = counters.lastSequence == nil
        phase = .replaying(replay)
        counters.replayCount += 1
        return [.startReplay(from: counters.lastSequence ?? 0)]
    }

    private mutating func retry(_ replay: Replay, at now: MonotonicTime) -> [Command] {
        if !replay.isFruitful { fruitlessCount += 1 }
        guard fruitlessCount < policy.fruitlessLimit, now - replay.since < policy.totalTime else {
            return giveUp(at: now)
        }
        phase = .waiting(replay, until: now + policy.retryDelay * (1 << fruitlessCount))
        return []
    }

    private mutating func giveUp(at now: MonotonicTime) -> [Command] {
        counters.failedReplayCount += 1
        fruitlessCount = 0
        cooldownEnd = now + policy.cooldown
        phase = .following
        return [.releaseHeld]
    }

    /// The endpoint is another process: everything begins anew.
    private mutating func restarted(at now: MonotonicTime) -> Decision {
        let stop: [Command] = isReplaying ? [.stopReplay] : []
        counters.restartCount += 1
        counters.lastSequence = nil
        counters.lastLiveSequence = nil
        cooldownEnd = nil
        fruitlessCount = 0
        return Decision(
            commands: stop + [.dropHeld, .clear] + begin(at: now), disposition: .discard)
    }
}
