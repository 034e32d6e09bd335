import Core

/// What one endpoint holds, what happened to it last, and whom this router follows for it.
final class ReplicaEndpoint {
    /// Whom it is followed at, and how far.
    struct Following {
        enum Stage {
            /// No answer yet.
            case asked
            /// All blocks are coming, as they were at the position and after.
            case reading(position: UInt64)
            /// Changes are coming.
            case live
        }

        let connection: Int
        let number: UInt32
        var stage = Stage.asked
        /// All that was known there when all blocks had been told.
        var loadsAt: UInt64 = 0
    }

    let name: String
    var table = SharedTable()
    var log: ReplicaLog
    var following: Following?
    /// All that the followed router knew up to there is here: of which life of which, and where.
    var cursor: (epoch: UInt64, position: UInt64)?
    var directSince: MonotonicTime?

    init(_ name: String, log: ReplicaLog) {
        self.name = name
        self.log = log
    }

    /// Whether others may follow this router for it: its events come here, and what others knew
    /// before is here, too.
    var isOffered: Bool { table.isDirect && table.isLoaded }

    /// Whether this router knows what there is to know.
    var isAgreed: Bool {
        if table.isDirect || following != nil { return table.isLoaded }
        return table.blockCount == 0
    }
}

/// A router that follows this one.
final class FollowerSession {
    struct Subscription {
        enum Stage {
            /// Its blocks are to be told, once other endpoints' are.
            case waiting
            /// They are being told. Those that come meanwhile are in the log.
            case telling(hashes: [UInt64], next: Int)
            /// Changes are told.
            case live
        }

        let endpoint: String
        var stage: Stage
        /// Changes up to there are told.
        var position: UInt64
        /// Whether it is in the queue of those whose changes are to be told.
        var isQueued = false
        /// Whether its position must be told even if there are no changes.
        var isAnswerDue = false
    }

    let id: Int
    var pulse: ReplicaPulse
    var greeting: ReplicaGreeting?
    var isGreetingDue = false
    /// What goes before all else: what is offered, and the last changes of what is no more.
    var news = Fifo<ReplicaFrame>()
    var subscriptions: [UInt32: Subscription] = [:]
    var numbers: [String: UInt32] = [:]
    /// Of which subscriptions there are changes to be told, in turn.
    var live = Fifo<UInt32>()
    /// Of which subscriptions all blocks are to be told, one after the other.
    var snapshots = Fifo<UInt32>()
    var isSnapshotNext = false
    /// What it is to be told of this router's load; nil if it does not want to know.
    var load: LoadSubscription?

    init(_ id: Int, at now: MonotonicTime) {
        self.id = id
        pulse = ReplicaPulse(at: now)
    }
}

/// A router that this one may follow.
final class TellerSession {
    let id: Int
    var pulse: ReplicaPulse
    var greeting: ReplicaGreeting?
    /// The endpoints that it offers.
    var offers: Set<String> = []
    var outbox = Fifo<ReplicaFrame>()
    /// The endpoints that are followed there, by their number in its frames.
    var endpoints: [UInt32: String] = [:]
    var nextNumber: UInt32 = 1

    init(_ id: Int, at now: MonotonicTime) {
        self.id = id
        pulse = ReplicaPulse(at: now)
    }
}

/// When a connection was last used.
struct ReplicaPulse {
    var heardAt: MonotonicTime
    var sentAt: MonotonicTime
    var isHeartbeatDue = false

    init(at now: MonotonicTime) {
        heardAt = now
        sentAt = now
    }
}
