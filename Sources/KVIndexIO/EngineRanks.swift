import Core
import KVIndex
import Logging
import Telemetry

/// The engines behind one model server, one for each of its data-parallel ranks. Loop-bound.
///
/// Ranks number their batches each for itself. A rank that publishes at an endpoint of its own is
/// known by that; those that connect to us are told apart by what their batches say. Such a rank
/// may be above the size that the server was said to have.
final class EngineRanks {
    let server: ModelServer
    private(set) var streams: [Int: EngineStream] = [:]
    /// Ranks that cannot be indexed.
    private var refused: Set<Int> = []
    private let environment: EngineStream.Environment
    private let grew: () -> Void

    /// Opens the ranks that the server is said to have. `grew` is called when another one shows up.
    init(
        _ server: ModelServer, _ environment: EngineStream.Environment, grew: @escaping () -> Void
    ) {
        self.server = server
        self.environment = environment
        self.grew = grew
        for rank in 0..<server.dataParallelSize { open(rank) }
    }

    /// Closes the sockets; the index keeps what it has.
    func close() {
        for stream in streams.values { stream.close() }
    }

    /// Closes the sockets and drops the ranks from the index.
    func remove() {
        close()
        for stream in streams.values { environment.index.remove(stream.endpoint) }
        streams = [:]
    }

    /// Takes a batch from the socket that engines connect to.
    func received(
        topic: UnsafeRawBufferPointer, sequence: UInt64, payload: UnsafeRawBufferPointer
    ) {
        let rank: Int
        do {
            rank = try KVEventDecoder.rank(of: payload) ?? 0
        } catch {
            return unreadable(topic: topic, sequence: sequence, payload: payload)
        }
        guard (0..<ModelServer.maximumDataParallelSize).contains(rank), !refused.contains(rank)
        else { return environment.metrics.unknownEngines.increment() }
        if streams[rank] == nil {
            open(rank)
            if streams[rank] != nil { grew() }
        }
        streams[rank]?.received(topic: topic, sequence: sequence, payload: payload)
    }

    /// It may have been any rank's batch, so it counts against each.
    private func unreadable(
        topic: UnsafeRawBufferPointer, sequence: UInt64, payload: UnsafeRawBufferPointer
    ) {
        if streams.count == 1, let stream = streams[0] {
            return stream.received(topic: topic, sequence: sequence, payload: payload)
        }
        environment.metrics.messages.increment()
        environment.metrics.decodeErrors.increment()
        for stream in streams.values { stream.mayHaveSentUnreadable() }
    }

    private func open(_ rank: Int) {
        let name = server.name(ofRank: rank)
        func refuse(_ reason: String) {
            refused.insert(rank)
            environment.logger.error("not indexed: \(reason)", metadata: ["endpoint": "\(name)"])
        }
        guard let server = server.rank(rank) else {
            return refuse("its events need a port to count the ranks from")
        }
        guard environment.index.endpoint(named: name) == nil else {
            return refuse("another model server has its name")
        }
        do {
            let endpoint =
                rank == 0
                ? try environment.index.register(name)
                : try environment.index.register(name, rank: rank, of: self.server.name)
            streams[rank] = EngineStream(server, endpoint, environment)
        } catch {
            refuse("\(error)")
        }
    }
}
