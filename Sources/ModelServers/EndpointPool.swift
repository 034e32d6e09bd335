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
    /// What is said about requests.
    public let rules: TrafficRules
    private let catalog: ModelCatalog

    init(
        generation: Int, members: [PoolMember], modelsByID: [UInt32: [ServedModel]] = [:],
        rules: TrafficRules = TrafficRules()
    ) {
        self.generation = generation
        self.members = members
        self.rules = rules
        endpoints = members.map(\.endpoint)
        catalog = ModelCatalog(modelsByID, endpoints: endpoints.map(\.id))
        let isComplete = !members.isEmpty && modelsByID.count == members.count
        models = isComplete ? catalog.models.map(\.id) : nil
    }

    /// The models that members have listed so far, sorted by id.
    public var servedModels: [ServedModel] { catalog.models }

    /// A model as the first member that has it lists it; nil if none does.
    public func model(_ id: String) -> ServedModel? { catalog[id] }

    /// Whether a member lists a model.
    public func lists(_ model: String) -> Bool { catalog[model] != nil }

    /// The ids of the endpoints that may serve a model: those that list it, and those of which it
    /// is not known. Nil if that rules nobody out, or if no endpoint lists it.
    public func endpointIDs(serving model: String) -> Set<UInt32>? {
        catalog.endpoints(serving: model)
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
        var snapshot = PoolSnapshot(generation: 0, members: [])
        var modelsByID: [UInt32: [ServedModel]] = [:]
        var rules = TrafficRules()
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

    /// Makes `servers` the pool and, in the same step, `rules` what is said about requests; nil
    /// leaves that as it is. A server that is there already, with nothing about it changed, keeps
    /// its live state. Names must be unique.
    public func update(_ servers: [ModelServer], rules: TrafficRules? = nil) {
        change { state in
            if let rules { state.rules = rules }
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

    /// Says something else about requests.
    public func setRules(_ rules: TrafficRules) {
        change { state in
            state.rules = rules
            return state.snapshot.members
        }
    }

    /// Notes which models a member serves.
    public func setModels(_ models: [ServedModel], of member: PoolMember) {
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
            observer(PoolSnapshot(generation: 0, members: []), state.snapshot)
        }
    }

    private func change(_ members: (inout State) -> [PoolMember]) {
        state.withLock { state in
            let before = state.snapshot
            let members = members(&state)
            let ids = Set(members.map(\.endpoint.id))
            state.modelsByID = state.modelsByID.filter { ids.contains($0.key) }
            state.snapshot = PoolSnapshot(
                generation: before.generation + 1, members: members,
                modelsByID: state.modelsByID, rules: state.rules)
            // Under the lock, so that observers see changes in their order and before requests do.
            for observer in state.observers {
                observer(before, state.snapshot)
            }
            generation.store(state.snapshot.generation, ordering: .releasing)
        }
    }
}
