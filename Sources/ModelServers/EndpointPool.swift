public import Core
import Synchronization

/// The endpoints at one moment. Immutable but for the live state of the members.
public final class PoolSnapshot: Sendable {
    /// Grows with every change of the pool.
    public let generation: Int
    /// The members, in the order of discovery.
    public let members: [PoolMember]
    /// The endpoints of the members, in the same order.
    public let endpoints: [Endpoint]
    /// Every model that a member serves, sorted; nil while the models of a member are not known.
    public let models: [String]?

    init(generation: Int, members: [PoolMember], models: [String]?) {
        self.generation = generation
        self.members = members
        self.models = models
        endpoints = members.map(\.endpoint)
    }

    /// The member at an address.
    public func member(at address: SocketAddress) -> PoolMember? {
        members.first { $0.endpoint.server.address == address }
    }
}

/// The endpoints that requests may go to. Any thread.
public final class EndpointPool: Sendable {
    /// Called after a change, with the pool before and after it, one call at a time and with the
    /// pool locked: it must return soon and not call the pool.
    public typealias Observer = @Sendable (_ before: PoolSnapshot, _ after: PoolSnapshot) -> Void

    private struct State {
        var snapshot = PoolSnapshot(generation: 0, members: [], models: nil)
        var modelsByID: [UInt32: [String]] = [:]
        var nextID: UInt32 = 0
        var observers: [Observer] = []
    }

    private let state = Mutex(State())
    private let generation = Atomic<Int>(0)
    private let circuit: CircuitBreaker.Rules

    /// Makes an empty pool, whose members' circuits open by these rules.
    public init(circuit: CircuitBreaker.Rules = CircuitBreaker.Rules()) {
        self.circuit = circuit
    }

    /// The pool as it stands.
    public var snapshot: PoolSnapshot { state.withLock(\.snapshot) }

    /// Brings a snapshot up to date. Costs one atomic load while nothing has changed.
    public func refresh(_ snapshot: inout PoolSnapshot) {
        if generation.load(ordering: .acquiring) != snapshot.generation {
            snapshot = self.snapshot
        }
    }

    /// Makes `servers` the pool. A server that is there already, with nothing about it changed,
    /// keeps its live state. Names must be unique.
    public func update(_ servers: [ModelServer]) {
        change { state in
            var known: [String: PoolMember] = [:]
            for member in state.snapshot.members {
                known[member.endpoint.server.name] = member
            }
            return servers.map { server in
                if let member = known[server.name], member.endpoint.server == server {
                    return member
                }
                defer { state.nextID += 1 }
                return PoolMember(Endpoint(server, id: state.nextID), circuit: circuit)
            }
        }
    }

    /// Notes which models a member serves.
    public func setModels(_ models: [String], of member: PoolMember) {
        let id = member.endpoint.id
        guard state.withLock({ $0.modelsByID[id] }) != models else { return }
        change { state in
            state.modelsByID[id] = models
            return state.snapshot.members
        }
    }

    /// Calls `observer` for what is in the pool now, as a change from an empty one, and after
    /// every later change.
    public func observe(_ observer: @escaping Observer) {
        state.withLock { state in
            state.observers.append(observer)
            observer(PoolSnapshot(generation: 0, members: [], models: nil), state.snapshot)
        }
    }

    private func change(_ members: (inout State) -> [PoolMember]) {
        state.withLock { state in
            let before = state.snapshot
            let members = members(&state)
            let ids = Set(members.map(\.endpoint.id))
            state.modelsByID = state.modelsByID.filter { ids.contains($0.key) }
            let isComplete = !members.isEmpty && state.modelsByID.count == members.count
            let models = isComplete ? Set(state.modelsByID.values.joined()).sorted() : nil
            state.snapshot = PoolSnapshot(
                generation: before.generation + 1, members: members, models: models)
            // Under the lock, so that observers see changes in their order and before requests do.
            for observer in state.observers {
                observer(before, state.snapshot)
            }
            generation.store(state.snapshot.generation, ordering: .releasing)
        }
    }
}
