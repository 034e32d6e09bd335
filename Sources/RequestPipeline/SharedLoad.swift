public import Core
public import ModelServers
public import Scheduling
import Synchronization

/// What several routers before the same endpoints tell each other of their load: this one's, as
/// pool and flow control have it, and the others', which it puts there. Any thread.
public final class SharedLoad: Sendable {
    private struct State {
        var snapshot: PoolSnapshot
        /// Of which pool the members are.
        var generation: Int?
        var members: [String: PoolMember] = [:]
        /// What other routers have in flight together, by endpoint, known here or not.
        var others: [String: InFlightLoad] = [:]
    }

    private let pool: EndpointPool
    private let flow: FlowController
    private let output: (any OutputEstimate)?
    private let state: Mutex<State>

    /// - Parameter output: what estimates the tokens to be generated, if anything does.
    public init(pool: EndpointPool, flow: FlowController, output: (any OutputEstimate)? = nil) {
        self.pool = pool
        self.flow = flow
        self.output = output
        state = Mutex(State(snapshot: pool.snapshot))
    }

    /// What this router has in flight, by endpoint, in the order of the pool.
    public func endpointsInFlight() -> [EndpointInFlight] {
        let output = output?.outputTokensInFlight ?? [:]
        return state.withLock { state in
            follow(&state)
            return state.snapshot.members.map { member in
                EndpointInFlight(
                    name: member.endpoint.server.name,
                    load: InFlightLoad(
                        requests: member.inFlightCount,
                        prefillTokens: member.prefillTokensInFlight,
                        outputTokens: output[member.endpoint.id] ?? 0))
            }
        }
    }

    /// The service that flows got from this router: all, or those that got some since the last
    /// call.
    public func attainedServices(all: Bool, at now: MonotonicTime) -> [AttainedService] {
        flow.takeAttainedServices(all: all, at: now)
    }

    /// Takes what other routers have in flight together, at endpoints where that has changed.
    public func show(_ loads: [String: InFlightLoad]) {
        state.withLock { state in
            for (name, load) in loads {
                state.others[name] = load == .none ? nil : load
                state.members[name]?.setPeersLoad(load)
            }
            showOutput(state)
        }
    }

    /// Takes the service that flows got from other routers together, where that has changed.
    public func show(_ services: [FlowID: Double], at now: MonotonicTime) {
        flow.setOthersService(services, at: now)
    }

    /// Members that are new are told what others have there.
    private func follow(_ state: inout State) {
        pool.refresh(&state.snapshot)
        guard state.snapshot.generation != state.generation else { return }
        state.generation = state.snapshot.generation
        state.members.removeAll(keepingCapacity: true)
        for member in state.snapshot.members {
            let name = member.endpoint.server.name
            state.members[name] = member
            member.setPeersLoad(state.others[name, default: .none])
        }
        showOutput(state)
    }

    private func showOutput(_ state: State) {
        guard let output else { return }
        var tokens: [UInt32: Int] = [:]
        for (name, load) in state.others where load.outputTokens > 0 {
            if let member = state.members[name] {
                tokens[member.endpoint.id] = load.outputTokens
            }
        }
        output.setOthersOutputTokens(tokens)
    }
}
