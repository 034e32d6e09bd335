import Core
import Scheduling
import Synchronization

/// What a plugin remembers about each endpoint of the pool. Endpoints that left the pool are
/// forgotten when it is next asked.
final class PerEndpoint<State: Sendable>: Sendable {
    /// The states of one pool, in the order of its endpoints.
    struct Row: Sendable {
        let generation: Int?
        let states: [State]
        fileprivate let byID: [UInt32: State]
    }

    private let latest = Mutex<Row?>(nil)
    private let makeState: @Sendable () -> State

    /// `makeState` makes the state of an endpoint that is new.
    init(_ makeState: @escaping @Sendable () -> State) {
        self.makeState = makeState
    }

    /// The states of the context's endpoints, in their order.
    func states(of context: SchedulingContext) -> [State] {
        latest.withLock { latest in
            if let row = latest, let generation = context.poolGeneration,
                row.generation == generation
            {
                return row.states
            }
            let known = latest?.byID ?? [:]
            var byID: [UInt32: State] = [:]
            let states = context.endpoints.map { endpoint in
                let state = known[endpoint.id] ?? makeState()
                byID[endpoint.id] = state
                return state
            }
            // A decision that began before the pool changed forgets nobody who is new.
            let isOlder = (context.poolGeneration ?? .max) < (latest?.generation ?? 0)
            if !isOlder {
                latest = Row(generation: context.poolGeneration, states: states, byID: byID)
            }
            return states
        }
    }
}
