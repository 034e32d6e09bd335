public import Core
internal import KVIndex
import Synchronization

/// An engine whose blocks the index holds, under its name there.
struct IndexedEngine: Sendable {
    /// The tenant of engines that came without one.
    static let defaultTenant = "default"

    /// The engine's name in the index.
    private(set) var name: String
    /// The name that answers give it: its own without a rank.
    let instance: String
    /// Its data-parallel rank, if its name ends in one or its server has more.
    private(set) var rank: Int?
    /// Where it answers requests.
    let address: String
    let tenant: String
    /// The model that it was registered with; nil if it may serve any.
    let model: String?

    init(_ server: ModelServer, tenant: String = Self.defaultTenant, model: String? = nil) {
        name = server.name
        (instance, rank) = Self.parts(of: server.name)
        address = server.address.description
        self.tenant = tenant
        self.model = model
    }

    /// What a caller may call it.
    var names: Set<String> {
        var names: Set = [instance, name, address]
        if let rank { names.insert(Self.name(of: instance, rank: rank)) }
        return names
    }

    /// Another rank of the server that this engine is the first of.
    func rank(_ rank: Int, named name: String) -> IndexedEngine {
        var engine = self
        engine.name = name
        engine.rank = rank
        return engine
    }

    /// llm-d's name of one data-parallel rank: `pod-1@dp0`.
    static func name(of instance: String, rank: Int) -> String { "\(instance)@dp\(rank)" }

    private static func parts(of name: String) -> (instance: String, rank: Int?) {
        guard let at = name.lastIndex(of: "@") else { return (name, nil) }
        let suffix = name[name.index(after: at)...]
        let digits = suffix.dropFirst(2)
        guard suffix.hasPrefix("dp"), !digits.isEmpty,
            digits.utf8.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }),
            let rank = Int32(digits)
        else { return (name, nil) }
        return (String(name[..<at]), Int(rank))
    }
}

/// The engines at one moment. Any thread.
final class EngineList: Sendable {
    /// An engine, and what the index calls it; nil if it has not met it yet.
    typealias Met = (engine: IndexedEngine, handle: EndpointHandle?)

    private struct Known {
        var version: Int
        var engines: [Met]
    }

    /// In the order of the pool, then of registration; of servers with ranks the first.
    private let engines: [(engine: IndexedEngine, server: ModelServer)]
    private let names: [String]
    private let known = Mutex<Known?>(nil)

    init(_ engines: [(engine: IndexedEngine, server: ModelServer)]) {
        self.engines = engines
        names = engines.map(\.engine.name)
    }

    /// The engines, all ranks of a server one after the other.
    func engines(in index: KVIndex) -> [Met] {
        let version = index.endpointVersion
        if let known = known.withLock(\.self), known.version == version { return known.engines }
        var found: [Met] = []
        for ((engine, server), ranks) in zip(engines, index.ranks(of: names)) {
            if ranks.isEmpty {
                found.append((engine, nil))
            } else if ranks.count == 1, ranks[0].rank == 0, server.dataParallelSize == 1 {
                found.append((engine, ranks[0].handle))
            } else {
                found += ranks.map { rank in
                    (
                        engine.rank(rank.rank, named: server.name(ofRank: rank.rank)),
                        rank.handle
                    )
                }
            }
        }
        known.withLock { [found] in $0 = Known(version: version, engines: found) }
        return found
    }
}

/// Which engines the index follows: those of a pool, and those that registered. Any thread.
public final class EngineDirectory: Sendable {
    private struct State {
        var pool: [ModelServer] = []
        var registrations: [EngineRegistration] = []
        var list = EngineList([])
    }

    private let state = Mutex(State())
    private let maximumRegistrations: Int
    private let publish: @Sendable ([ModelServer]) -> Void

    /// Makes a directory without engines.
    ///
    /// - Parameters:
    ///   - maximumRegistrations: More than so many engines cannot register.
    ///   - publish: Takes the engines after each change, one call at a time and in order; it must
    ///     return soon and not call the directory.
    public init(
        maximumRegistrations: Int = 1024, publish: @escaping @Sendable ([ModelServer]) -> Void
    ) {
        self.maximumRegistrations = maximumRegistrations
        self.publish = publish
    }

    /// Takes over the pool as it is now.
    public func setPool(_ servers: [ModelServer]) {
        state.withLock { state in
            state.pool = servers
            changed(&state)
        }
    }

    /// Adds an engine. The same registration again changes nothing.
    ///
    /// - Throws: ``IndexerError``, such as that the name is taken.
    public func register(_ registration: EngineRegistration) throws(IndexerError) {
        try state.withLock { (state) throws(IndexerError) in
            let name = registration.instance
            if let known = state.registrations.first(where: {
                $0.instance == name && $0.rank == registration.rank
            }) {
                guard known != registration else { return }
                throw IndexerError(
                    .invalidRegistration,
                    "'\(name)', rank \(registration.rank), is registered otherwise; unregister it",
                    field: "instance_id")
            }
            if state.registrations.contains(where: {
                $0.instance == name && $0.tenant != registration.tenant
            }) {
                throw IndexerError(
                    .invalidRegistration, "'\(name)' belongs to another tenant",
                    field: "instance_id")
            }
            if state.pool.contains(where: { IndexedEngine($0).instance == name }) {
                throw IndexerError(
                    .invalidRegistration, "'\(name)' is configured here", field: "instance_id")
            }
            guard state.registrations.count < maximumRegistrations else {
                throw IndexerError(
                    .tooManyRegistrations,
                    "\(maximumRegistrations) engines are registered, and no more can be")
            }
            state.registrations.append(registration)
            changed(&state)
        }
    }

    /// Removes an engine that registered, with its blocks.
    ///
    /// - Returns: What was removed, each as `instance|tenant|rank`.
    /// - Throws: ``IndexerError`` of reason `notFound` if there was none.
    public func unregister(_ request: EngineUnregistration) throws(IndexerError) -> [String] {
        try state.withLock { (state) throws(IndexerError) in
            func isMeant(_ registration: EngineRegistration) -> Bool {
                registration.instance == request.instance && registration.tenant == request.tenant
                    && (request.rank == nil || registration.rank == request.rank)
            }
            let removed = state.registrations.filter(isMeant)
            guard !removed.isEmpty else {
                let rank = request.rank.map { ", rank \($0)," } ?? ""
                throw IndexerError(
                    .notFound,
                    "'\(request.instance)'\(rank) of '\(request.tenant)' did not register")
            }
            state.registrations.removeAll(where: isMeant)
            changed(&state)
            return removed.map { "\($0.instance)|\($0.tenant)|\($0.rank)" }
        }
    }

    /// The engines as they are now.
    var list: EngineList { state.withLock(\.list) }

    private func changed(_ state: inout State) {
        // An engine that was configured later keeps one out that had registered.
        let taken = Set(state.pool.map { IndexedEngine($0).instance })
        let registered = state.registrations.filter { !taken.contains($0.instance) }
        state.list = EngineList(
            state.pool.map { (IndexedEngine($0), $0) }
                + registered.map {
                    (IndexedEngine($0.server, tenant: $0.tenant, model: $0.model), $0.server)
                })
        publish(state.pool + registered.map(\.server))
    }
}
