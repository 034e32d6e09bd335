public import Core
public import KVIndex
import Scan

/// What is known of one engine's KV events.
public struct KVEngineState: Equatable, Sendable {
    /// The model server's name; of a data-parallel rank above 0 with a suffix such as `@dp1`.
    public var name: String
    /// Whether the subscription is up; always false for an engine that connects to us.
    public var isConnected = false
    /// Its batches: the last one, gaps, replays, restarts.
    public var sequence = SequenceTracker.Counters()
    /// Its blocks: held, stored, removed, parked.
    public var index = EndpointCounters()
    /// Batches that wait for the end of a replay.
    public var heldCount = 0
    /// Batches that are not what engines send.
    public var decodeErrorCount = 0
    /// Times that so many batches were bad that its events were ignored for a while.
    public var quarantineCount = 0
    /// Until when its events are ignored; nil if they are not.
    public var quarantineEnd: MonotonicTime?

    /// An engine that was not heard yet.
    public init(name: String) {
        self.name = name
    }

    /// Batches that the engine is known to have published, and of which the index does not know:
    /// more than none while they are replayed.
    public var lagCount: UInt64 {
        guard let live = sequence.lastLiveSequence else { return 0 }
        guard let last = sequence.lastSequence else { return live == .max ? .max : live + 1 }
        return live > last ? live - last : 0
    }
}

extension KVEngineState {
    /// What operators read: `{"engines": [{"name": …, …}, …]}`, numbers that are not known as null.
    public static func json(_ engines: [KVEngineState], at now: MonotonicTime = .now) -> [UInt8] {
        var json = JSONWriter(capacity: 512 * engines.count + 16)
        json.beginObject()
        json.key("engines")
        json.beginArray()
        for engine in engines { json.engine(engine, at: now) }
        json.endArray()
        json.endObject()
        return json.bytes
    }
}

extension JSONWriter {
    fileprivate mutating func engine(_ engine: KVEngineState, at now: MonotonicTime) {
        beginObject()
        member("name", engine.name)
        member("connected", engine.isConnected)
        unsigned("last_sequence", engine.sequence.lastSequence)
        unsigned("last_live_sequence", engine.sequence.lastLiveSequence)
        unsigned("lag_batches", engine.lagCount)
        member("held_batches", engine.heldCount)
        member("gaps", engine.sequence.gapCount)
        unsigned("lost_batches", engine.sequence.lostCount)
        member("replays", engine.sequence.replayCount)
        member("replays_failed", engine.sequence.failedReplayCount)
        member("restarts", engine.sequence.restartCount)
        member("decode_errors", engine.decodeErrorCount)
        member("blocks", engine.index.blockCount)
        member("blocks_stored", engine.index.storedCount)
        member("blocks_removed", engine.index.removedCount)
        member("cleared", engine.index.clearedCount)
        member("stores_skipped", engine.index.storesSkippedCount)
        member("removals_skipped", engine.index.removalsSkippedCount)
        member("parked_stores", engine.index.parkedCount)
        member("parked_stores_dropped", engine.index.parkedDroppedCount)
        member("quarantines", engine.quarantineCount)
        key("quarantine_seconds_left")
        if let end = engine.quarantineEnd {
            double(max(0, (end - now).seconds))
        } else {
            null()
        }
        endObject()
    }

    /// Sequence numbers are what engines claim, up to 64 bits.
    private mutating func unsigned(_ key: String, _ value: UInt64?) {
        self.key(key)
        if let value { raw("\(value)".utf8) } else { null() }
    }
}
