import Core
import KVIndex
import KVIndexIO

/// A generator whose seed a failed test tells (SplitMix64).
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(_ seed: UInt64) {
        state = seed
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94d0_49bb_1331_11eb
        return mixed ^ (mixed >> 31)
    }
}

/// A router without sockets: its protocol, and an index that counts stores as the real one does.
final class ReplicaRouter {
    let node: ReplicaNode
    /// Stores of each block that no removal answered, by endpoint.
    private(set) var counts: [String: [SharedBlock: Int]] = [:]
    private(set) var closed: [Int: ReplicaError] = [:]
    private(set) var greeted: Set<Int> = []
    /// What other routers have in flight, and the service that they gave.
    private(set) var loads: [String: InFlightLoad] = [:]
    private(set) var services: [FlowID: Double] = [:]

    init(_ number: UInt64, _ configure: (inout ReplicaNode.Configuration) -> Void = { _ in }) {
        var configuration = ReplicaNode.Configuration(
            keys: ReplicaKeys(algorithm: "xxh64", blockSize: 16, seed: ""))
        configuration.router = number
        configure(&configuration)
        node = ReplicaNode(configuration)
    }

    func held(_ endpoint: String) -> Set<SharedBlock> {
        Set(counts[endpoint, default: [:]].keys)
    }

    /// Whether each block is counted as often as the engine stored it.
    func countsOnce(_ endpoint: String) -> Bool {
        counts[endpoint, default: [:]].values.allSatisfy { $0 == 1 }
    }

    /// An engine's event, applied to the index and told to the protocol.
    func event(_ change: ReplicaChange, at endpoint: String, now: MonotonicTime) {
        switch change {
        case .stored(let block):
            counts[endpoint, default: [:]][block, default: 0] += 1
            node.applied(
                [.stored(engineHash: block.engineHash, key: block.key, tier: block.tier)],
                at: endpoint, now: now)
        case .removed(let block):
            takeBack(block, endpoint)
            node.applied(
                [.removed(engineHash: block.engineHash, tier: block.tier)], at: endpoint, now: now)
        case .cleared:
            counts[endpoint] = [:]
            node.applied([.cleared], at: endpoint, now: now)
        }
        perform()
    }

    /// The engine's events come no more.
    func lose(_ endpoint: String) {
        node.lost(endpoint)
        perform()
    }

    func perform() {
        for effect in node.takeEffects() {
            switch effect {
            case .added(let blocks, let endpoint):
                for block in blocks { counts[endpoint, default: [:]][block, default: 0] += 1 }
            case .removed(let blocks, let endpoint):
                for block in blocks { takeBack(block, endpoint) }
            case .greeted(let id, _): greeted.insert(id)
            case .loads(let new):
                for (name, load) in new { loads[name] = load == .none ? nil : load }
            case .services(let new):
                for (flow, tokens) in new { services[flow] = tokens == 0 ? nil : tokens }
            case .close(let id, let error): closed[id] = error
            case .ready: break
            }
        }
    }

    private func takeBack(_ block: SharedBlock, _ endpoint: String) {
        guard let count = counts[endpoint, default: [:]][block] else { return }
        counts[endpoint, default: [:]][block] = count == 1 ? nil : count - 1
    }
}

/// A connection that keeps some frames on the way, and can break.
final class ReplicaLink {
    let follower: ReplicaRouter
    let teller: ReplicaRouter
    let id: Int
    private var toTeller: [[UInt8]] = []
    private var toFollower: [[UInt8]] = []
    private let capacity: Int
    private(set) var bytesToFollower = 0

    init(
        _ id: Int, from follower: ReplicaRouter, to teller: ReplicaRouter, capacity: Int = 4,
        takesLoad: Bool = true, now: MonotonicTime
    ) {
        self.id = id
        self.follower = follower
        self.teller = teller
        self.capacity = capacity
        follower.node.connected(id, at: now)
        teller.node.accepted(id, takesLoad: takesLoad, at: now)
    }

    var isBroken: Bool { follower.closed[id] != nil || teller.closed[id] != nil }

    func cut() {
        follower.node.closed(id)
        teller.node.closed(id)
        follower.perform()
        teller.perform()
    }

    /// Takes frames from the routers, as far as there is room. Whether there were any.
    @discardableResult func send(at now: MonotonicTime) -> Bool {
        var isActive = false
        while toTeller.count < capacity, let frame = follower.node.nextFrame(for: id, at: now) {
            toTeller.append(frame.encoded)
            isActive = true
        }
        while toFollower.count < capacity, let frame = teller.node.nextFrame(for: id, at: now) {
            toFollower.append(frame.encoded)
            isActive = true
        }
        return isActive
    }

    /// Hands the oldest frames over. Whether there were any.
    @discardableResult func deliver(_ count: Int = 1, at now: MonotonicTime) -> Bool {
        var isActive = false
        for _ in 0..<count {
            if !toTeller.isEmpty {
                toTeller.removeFirst().withUnsafeBytes {
                    teller.node.received($0, on: id, at: now)
                }
                isActive = true
            }
            if !toFollower.isEmpty {
                let frame = toFollower.removeFirst()
                bytesToFollower += frame.count
                frame.withUnsafeBytes { follower.node.received($0, on: id, at: now) }
                isActive = true
            }
            follower.perform()
            teller.perform()
        }
        return isActive
    }
}

/// Sends and delivers until nothing is left.
func settle(_ links: [ReplicaLink], at now: MonotonicTime) {
    var isActive = true
    while isActive {
        isActive = false
        for link in links where !link.isBroken {
            if link.send(at: now) { isActive = true }
            if link.deliver(at: now) { isActive = true }
        }
    }
}
