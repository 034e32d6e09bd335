public import Core

/// Decides when an engine that sends batches that cannot be read is not listened to any more, and
/// for how long. It does no I/O.
///
/// What such a batch told is lost: blocks may count as held that are gone. A few are borne as other
/// lost batches are. Many in a short time put the engine into quarantine: its blocks are dropped
/// and its events ignored for a while, the longer the sooner it does it again. Many in a long time
/// drop its blocks once.
public struct SourceQuarantine: Sendable {
    /// How much is borne.
    public struct Policy: Equatable, Sendable {
        /// How many bad batches within ``window`` begin a quarantine.
        public var limit = 8
        /// The time within which they count together.
        public var window = Duration.seconds(60)
        /// How long the first quarantine lasts; each further one lasts twice as long.
        public var cooldown = Duration.seconds(30)
        /// The longest quarantine.
        public var maximumCooldown = Duration.seconds(600)
        /// The time without a bad batch, quarantine not counted, after which the next quarantine is
        /// a first one.
        public var probation = Duration.seconds(600)
        /// How many bad batches, however far apart, drop the engine's blocks.
        public var toleratedCount = 64

        /// Eight batches in a minute, 30 seconds to 10 minutes.
        public init() {}
    }

    /// What to do after a bad batch.
    public enum Verdict: Equatable, Sendable {
        /// Nothing.
        case bear
        /// Drop the engine's blocks.
        case forget
        /// Drop the engine's blocks, and ignore its events until ``SourceQuarantine/end``.
        case quarantine
    }

    private let policy: Policy
    /// When the bad batches within the window came; fewer than the limit.
    private var recent: [MonotonicTime] = []
    private var sinceForgotten = 0
    private var nextCooldown: Duration
    private var lastMisdeed: MonotonicTime?

    /// When the quarantine ends; nil where there is none.
    public private(set) var end: MonotonicTime?
    /// Quarantines so far.
    public private(set) var count = 0

    /// For an engine of which nothing bad is known.
    public init(policy: Policy = Policy()) {
        self.policy = policy
        nextCooldown = policy.cooldown
    }

    /// A batch could not be read.
    public mutating func malformed(at now: MonotonicTime) -> Verdict {
        guard end == nil else { return .bear }
        if let lastMisdeed, now - lastMisdeed >= policy.probation { nextCooldown = policy.cooldown }
        lastMisdeed = now
        recent.removeAll { now - $0 >= policy.window }
        recent.append(now)
        guard recent.count < policy.limit else {
            begin(at: now)
            return .quarantine
        }
        sinceForgotten += 1
        guard sinceForgotten < policy.toleratedCount else {
            sinceForgotten = 0
            return .forget
        }
        return .bear
    }

    /// The engine's blocks were dropped for another reason.
    public mutating func forgot() {
        sinceForgotten = 0
    }

    /// Ends the quarantine if its time is over.
    ///
    /// - Returns: Whether it ended.
    public mutating func tick(_ now: MonotonicTime) -> Bool {
        guard let end, end <= now else { return false }
        self.end = nil
        lastMisdeed = now
        return true
    }

    private mutating func begin(at now: MonotonicTime) {
        count += 1
        end = now + nextCooldown
        nextCooldown = min(nextCooldown * 2, policy.maximumCooldown)
        recent = []
        sinceForgotten = 0
    }
}
