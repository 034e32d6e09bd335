public import Core

/// Which requests in flight may be stopped, and which were.
struct Evictions: Sendable {
    /// At most so many are stopped at once.
    static let perDecision = 2
    /// The time that a decision gets to show in the saturation.
    static let grace = Duration.milliseconds(500)
    /// The time after which a stopped request that does not leave is waited for no more.
    static let confirmationTimeout = Duration.seconds(10)

    /// The sheddable requests in flight: lowest priority first, then the newest.
    private var candidates = IndexedHeap()
    private var unconfirmed: [(id: FlowRequestID, until: MonotonicTime)] = []
    private var nextDecision: MonotonicTime?

    mutating func started(
        _ slot: Int32, priority: Int, sequence: UInt64, _ positions: inout [Int32]
    ) {
        candidates.insert(
            IndexedHeap.Item(
                key: UInt64(bitPattern: Int64(priority)) ^ (1 << 63),
                sequence: .max - sequence, id: slot), &positions)
    }

    mutating func left(
        _ id: FlowRequestID, isRevoked: Bool, isCandidate: Bool, _ positions: inout [Int32]
    ) {
        if isRevoked {
            unconfirmed.removeAll { $0.id == id }
        } else if isCandidate {
            candidates.remove(id.slot, &positions)
        }
    }

    /// Whether a decision may be made: the last one has shown its effect.
    mutating func mayDecide(at now: MonotonicTime) -> Bool {
        unconfirmed.removeAll { $0.until <= now }
        return unconfirmed.isEmpty && nextDecision.map { $0 <= now } ?? true && !candidates.isEmpty
    }

    mutating func decided(at now: MonotonicTime) {
        nextDecision = now + Self.grace
    }

    mutating func next(_ positions: inout [Int32]) -> Int32? {
        guard let first = candidates.first else { return nil }
        candidates.remove(first.id, &positions)
        return first.id
    }

    mutating func revoked(_ id: FlowRequestID, at now: MonotonicTime) {
        unconfirmed.append((id, now + Self.confirmationTimeout))
    }
}

extension FlowQueues {
    /// The requests in flight that are to be stopped so that one which must not be shed gets their
    /// place: priority below 0 only, the lowest first, then the newest; a few at a time, and no
    /// more before those have left and the saturation had time to show it. They are stopped by
    /// whoever serves them, and given back by ``leave(_:service:now:)``.
    public mutating func revoke(
        saturation: PoolSaturation, now: MonotonicTime, into ids: inout [FlowRequestID]
    ) {
        guard configuration.enableEviction, !saturation.isPoolEmpty,
            let rank = bands.firstIndex(where: { $0.requestCount > 0 }),
            bands[rank].priority >= 0,
            saturation.effective >= ceiling(of: rank, at: saturation.effective),
            evictions.mayDecide(at: now)
        else { return }
        evictions.decided(at: now)
        for _ in 0..<min(Evictions.perDecision, bands[rank].requestCount) {
            guard let slot = evictions.next(&slotPositions) else { return }
            slots[Int(slot)].state = .revoked
            let id = id(of: slot)
            evictions.revoked(id, at: now)
            ids.append(id)
        }
    }
}
