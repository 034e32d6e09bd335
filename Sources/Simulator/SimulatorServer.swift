public import Core
import Messaging
import Net
import Synchronization

/// A simulated engine that runs: one thread that answers HTTP, publishes KV events and moves KV
/// blocks, on a pool of real memory.
///
/// Any thread. Runs until ``drain(within:)``.
public final class SimulatorServer: Sendable {
    /// Where it answers HTTP, with the real port.
    public let address: SocketAddress
    /// Where other engines pull KV blocks, with the real port.
    public let transferAddress: SocketAddress
    /// Where KV events are published, as bound or connected; nil without them.
    public let eventsEndpoint: String?
    /// Where KV events are replayed; nil if nowhere.
    public let replayEndpoint: String?

    private let group: EventLoopGroup
    private let http: HTTPServer
    /// Nil once drained: the last reference frees memory and sockets.
    private let engine: Mutex<Engine?>

    private init(group: EventLoopGroup, http: HTTPServer, engine: Engine) {
        self.group = group
        self.http = http
        self.engine = Mutex(engine)
        address = http.address
        transferAddress = engine.transferIdentity.address
        eventsEndpoint = engine.eventEndpoints?.live
        replayEndpoint = engine.eventEndpoints?.replay
    }

    /// Starts an engine.
    ///
    /// - Throws: ``SimulatorError`` with the option that makes no sense, or the part that did not
    ///   start.
    public static func start(
        _ configuration: SimulatorConfiguration
    ) async throws(SimulatorError) -> SimulatorServer {
        try configuration.validate()
        let group: EventLoopGroup
        let context: MessagingContext
        do {
            group = try EventLoopGroup(count: 1, name: "llmd-sim")
            context = try MessagingContext()
        } catch {
            throw .cannotStart(part: "event loop", reason: "\(error)")
        }
        let loop = group.loops[0]
        let started = await withCheckedContinuation { continuation in
            loop.execute {
                continuation.resume(
                    returning: Result { () throws(SimulatorError) in
                        try Engine(configuration, context: context, on: loop)
                    })
            }
        }
        do throws(SimulatorError) {
            let engine = try started.get()
            let http = try listen(configuration, group, engine)
            return SimulatorServer(group: group, http: http, engine: engine)
        } catch {
            group.shutdown()
            throw error
        }
    }

    private static func listen(
        _ configuration: SimulatorConfiguration, _ group: EventLoopGroup, _ engine: Engine
    ) throws(SimulatorError) -> HTTPServer {
        do {
            // Weak: the server's listeners outlive the engine.
            return try HTTPServer.listen(on: group, at: configuration.address) {
                [weak engine] exchange in
                guard let engine else { return nil }
                guard let route = Route(rawValue: String(exchange.head.path)),
                    route.isServed(by: engine.configuration)
                else {
                    return Refusal()
                }
                guard route.methods.contains(exchange.head.method) else {
                    return Refusal(methodsOf: route)
                }
                return APISession(route, engine)
            }
        } catch {
            throw .cannotStart(part: "HTTP on \(configuration.address)", reason: "\(error)")
        }
    }

    /// Lets a test see and change the memory of a block, between two turns of the engine.
    package func withMemory(
        ofBlock block: Int, _ body: @escaping @Sendable (UnsafeMutableRawBufferPointer) -> Void
    ) async {
        guard let engine = engine.withLock({ $0 }) else { return }
        await onLoop { body(engine.memory(ofBlock: block)) }
    }

    /// Stops accepting, lets requests end for as long as `deadline`, aborts the rest, and closes
    /// everything.
    public func drain(within deadline: Duration) async {
        await http.drain(within: deadline)
        let engine = engine.withLock { engine in
            defer { engine = nil }
            return engine
        }
        guard let engine else { return }
        await onLoop { engine.close() }
        group.shutdown()
    }

    private func onLoop(_ body: @escaping @Sendable () -> Void) async {
        await withCheckedContinuation { continuation in
            let isRunning = group.loops[0].execute {
                body()
                continuation.resume()
            }
            if !isRunning { continuation.resume() }
        }
    }
}

/// Answers a request that no route takes, as FastAPI does.
private final class Refusal: ServerExchangeDelegate {
    private let head: HTTPResponseHead
    private let detail: String

    /// No such route.
    init() {
        head = HTTPResponseHead(status: 404, headers: ["content-type": "application/json"])
        detail = "Not Found"
    }

    /// The route takes other methods.
    init(methodsOf route: Route) {
        head = HTTPResponseHead(
            status: 405,
            headers: [
                "allow": route.methods.joined(separator: ", "),
                "content-type": "application/json",
            ])
        detail = "Method Not Allowed"
    }

    func exchangeReceivedEnd(_ exchange: ServerExchange) {
        exchange.respond(head, text: "{\"detail\":\"\(detail)\"}")
    }
}
