public import Core
public import KVIndex
import Logging
import Net
import Telemetry

/// Shares an index and what is in flight with other routers directly, without a server between
/// them.
///
/// Each router listens and connects to the others; see ``ReplicaNode`` for what they tell each
/// other. A connection is one gRPC call that streams both ways over HTTP/2, so that flow control
/// is the transport's. Routing never waits for it.
///
/// Lives on its event loop, which should not carry requests.
///
/// Unchecked: everything is touched on that loop only; what crosses threads is the reference that
/// the server's and the resolver's closures hold.
public final class ReplicaIndexBackend: IndexSharing, @unchecked Sendable {
    /// Where others connect to, with the real port.
    public private(set) var address: SocketAddress

    private let configuration: Configuration
    private let node: ReplicaNode
    private let loop: EventLoop
    /// The index; nil if it is shared in another way.
    private let replica: (any SharedIndexReplica)?
    private let load: (any LoadSharing)?
    private let certificates: ReplicaCertificates?
    private let metrics: ReplicaMetrics
    private let logger: Logger
    private var server: HTTPServer?
    private var streams: [Int: any ReplicaStream] = [:]
    private var peers: ReplicaPeers
    private var retries: [SocketAddress: Timer] = [:]
    private var lastConnection = 0
    private var isPerformDue = false
    private var timer: Timer?
    private var loadTimer: Timer?
    private var resolveTimer: Timer?
    private var resolveProblem: NetError?
    private var told = ReplicaNode.Counters()
    private var agreedAt = MonotonicTime.now

    /// Starts to share; the other routers need not be there.
    ///
    /// - Parameters:
    ///   - load: What is told of this router's load, and takes others'; nil: load is not shared.
    ///   - sharesIndex: False if the index is shared in another way.
    /// - Throws: `NetError` if nothing can listen at the address, or certificates do not fit.
    public convenience init(
        _ configuration: Configuration, in environment: IndexSharingEnvironment,
        load: (any LoadSharing)? = nil, sharesIndex: Bool = true, metrics: ReplicaMetrics
    ) throws {
        let keys = environment.index.configuration
        try self.init(
            configuration,
            keys: ReplicaKeys(
                algorithm: "\(keys.algorithm)", blockSize: UInt32(keys.blockSize),
                seed: keys.hashSeed),
            replica: sharesIndex ? IndexReplica(environment.index) : nil,
            load: configuration.sharesLoad ? load : nil, on: environment.loop, metrics: metrics,
            logger: environment.logger)
    }

    private init(
        _ configuration: Configuration, keys: ReplicaKeys, replica: (any SharedIndexReplica)?,
        load: (any LoadSharing)?, on loop: EventLoop, metrics: ReplicaMetrics, logger: Logger
    ) throws {
        loop.preconditionInLoop()
        self.configuration = configuration
        address = configuration.listen
        self.loop = loop
        self.replica = replica
        self.load = load
        certificates = try configuration.tls.map {
            try ReplicaCertificates($0, on: loop, logger: logger)
        }
        self.metrics = metrics
        self.logger = logger
        var protocolConfiguration = ReplicaNode.Configuration(keys: keys)
        protocolConfiguration.heartbeat = configuration.heartbeat
        protocolConfiguration.silenceLimit = configuration.silenceLimit
        protocolConfiguration.loadingPatience = configuration.loadingPatience
        protocolConfiguration.maximumLogCount = configuration.maximumLogCount
        protocolConfiguration.sharesLoad = load != nil
        protocolConfiguration.loadRefresh = configuration.loadRefresh
        protocolConfiguration.loadLease = configuration.loadLease
        node = ReplicaNode(protocolConfiguration)
        peers = ReplicaPeers(delays: configuration.reconnectDelay)
        var serverConfiguration = HTTPServerConfiguration(tls: certificates?.server)
        // Heartbeats keep streams alive; connections without one must not take their places.
        serverConfiguration.idleTimeout = configuration.silenceLimit * 2
        serverConfiguration.maximumConnections = 2 * configuration.maximumFollowerCount
        serverConfiguration.http2MaximumStreams = 4
        let server = try HTTPServer.listen(
            on: loop, at: configuration.listen, configuration: serverConfiguration
        ) { [weak self] in self?.accept($0) }
        self.server = server
        address = server.address
        timer = loop.schedule(every: configuration.heartbeat / 4) { [weak self] in self?.tick() }
        if load != nil {
            loadTimer = loop.schedule(every: configuration.loadInterval) { [weak self] in
                self?.tellLoad()
            }
        }
        switch configuration.peers {
        case .addresses(let addresses): setPeers(addresses)
        case .service: resolve()
        }
    }

    /// Stops to share.
    public func close() {
        for timer in [timer, loadTimer, resolveTimer] + Array(retries.values) { timer?.cancel() }
        timer = nil
        certificates?.close()
        retries = [:]
        metrics.showPeers([:])
        for stream in streams.values { stream.close(.connection("the router stops")) }
        streams = [:]
        server?.close()
    }

    /// The pool. Endpoints that are new take over what other routers know.
    public func update(_ servers: [ModelServer]) {
        guard replica != nil else { return }
        node.update(Set(servers.map(\.name)))
        perform()
    }

    /// What an engine's events changed, which other routers are told.
    public func applied(_ changes: [BlockChange], at endpoint: String) {
        guard replica != nil else { return }
        node.applied(changes, at: endpoint, now: .now)
        performSoon()
    }

    /// An engine's events come no more: other routers are followed, and no more told.
    public func lost(_ endpoint: String) {
        node.lost(endpoint)
        performSoon()
    }

    /// The caller may be in the midst of something.
    private func performSoon() {
        guard !isPerformDue else { return }
        isPerformDue = true
        loop.schedule(after: .zero) { [weak self] in
            self?.isPerformDue = false
            self?.perform()
        }
    }

    private func tick() {
        node.tick(.now)
        perform()
        if node.isAgreed { agreedAt = .now }
        metrics.disagreement.set(node.isAgreed ? 0 : (.now - agreedAt).seconds)
        metrics.lag.set(Double(node.lag))
        metrics.loadPeers.set(Double(node.loadLedger.peerCount))
        metrics.loadAge.set(node.loadLedger.age(at: .now).seconds)
        peers.tick { node.heardAt($0) }
        metrics.showPeers(peers.heardAt)
    }

    private func tellLoad() {
        guard let load else { return }
        let now = MonotonicTime.now
        let services = load.attainedServices(all: node.isLoadRefreshDue(at: now), at: now)
        node.report(load.endpointsInFlight(), services, at: now)
        perform()
    }

    /// Does what follows from calls of the protocol.
    private func perform() {
        var ready: Set<Int> = []
        for effect in node.takeEffects() {
            switch effect {
            case .added(let blocks, let endpoint): replica?.add(blocks, to: endpoint)
            case .removed(let blocks, let endpoint): replica?.remove(blocks, from: endpoint)
            case .loads(let loads): load?.show(loads)
            case .services(let services): load?.show(services, at: .now)
            case .ready(let id): ready.insert(id)
            case .greeted(let id, let router): greeted(id, router)
            case .close(let id, let error):
                streams.removeValue(forKey: id)?.close(error)
                ended(id, error)
            }
        }
        for id in ready { send(on: id) }
        metrics.followed.set(Double(node.tellerCount))
        metrics.followers.set(Double(node.followerCount))
        let now = node.counters
        metrics.snapshotsTold.increment(by: now.snapshotsTold - told.snapshotsTold)
        metrics.snapshotsRead.increment(by: now.snapshotsRead - told.snapshotsRead)
        metrics.logOverruns.increment(by: now.logOverruns - told.logOverruns)
        told = now
    }

    private func send(on id: Int) {
        guard let stream = streams[id] else { return }
        while stream.isWritable, let frame = node.nextFrame(for: id, at: .now) {
            let bytes = frame.encoded
            metrics.bytesTold.increment(by: bytes.count)
            stream.write(bytes)
        }
    }

    private func handle(_ event: ReplicaStreamEvent, on id: Int) {
        switch event {
        case .received(let bytes):
            metrics.bytesRead.increment(by: bytes.count)
            node.received(bytes, on: id, at: .now)
        case .writable: send(on: id)
        case .closed(let error):
            streams[id] = nil
            node.closed(id)
            ended(id, error)
        }
        perform()
    }

    // MARK: - Routers that follow this one

    private func accept(_ exchange: ServerExchange) -> (any ServerExchangeDelegate)? {
        guard exchange.isHTTP2, exchange.head.target == TellerStream.path else { return nil }
        let count = streams.values.count { $0 is FollowerStream }
        guard count < configuration.maximumFollowerCount else {
            exchange.refuseGRPC(.resourceExhausted("\(count) routers follow already"))
            return AnsweredExchange()
        }
        let id = nextConnection()
        let stream = FollowerStream(
            exchange, maximumFrameBytes: Int(node.configuration.maximumFrameBytes)
        ) { [weak self] in self?.handle($0, on: id) }
        streams[id] = stream
        let version = exchange.head.headers[first: ReplicaFrame.loadHeader].flatMap { Int($0) }
        node.accepted(id, takesLoad: (version ?? 0) >= ReplicaFrame.loadVersion, at: .now)
        return stream
    }

    private func nextConnection() -> Int {
        lastConnection += 1
        return lastConnection
    }

    // MARK: - Routers that this one follows

    private func setPeers(_ addresses: [SocketAddress]) {
        let (new, gone, again) = peers.replace(with: addresses, at: .now)
        for address in Array(retries.keys) where !addresses.contains(address) {
            retries.removeValue(forKey: address)?.cancel()
        }
        for id in gone {
            streams.removeValue(forKey: id)?.close(.connection("it is no peer any more"))
            node.closed(id)
        }
        for address in new { connect(to: address) }
        for retry in again { connect(after: retry) }
        perform()
    }

    private func connect(to address: SocketAddress) {
        let id = nextConnection()
        guard peers.connect(address, as: id) else { return }
        streams[id] = TellerStream(
            to: address, on: loop, tls: certificates?.client, takesLoad: load != nil,
            maximumFrameBytes: Int(node.configuration.maximumFrameBytes)
        ) { [weak self] in self?.handle($0, on: id) }
        node.connected(id, at: .now)
        perform()
    }

    private func connect(after retry: ReplicaPeers.Retry) {
        retries[retry.address]?.cancel()
        retries[retry.address] = loop.schedule(after: retry.delay) { [weak self] in
            self?.retries[retry.address] = nil
            self?.connect(to: retry.address)
        }
    }

    private func greeted(_ id: Int, _ router: UInt64) {
        guard let address = peers.greeted(id, router) else { return }
        logger.info("the \(subject) is shared with router \(router) at \(address)")
    }

    /// Connects again later, if the connection was this router's.
    private func ended(_ id: Int, _ error: ReplicaError) {
        let end = peers.ended(id, error)
        guard let address = end.address else {
            logger.debug("a router that followed is gone: \(error)")
            return
        }
        // Attempts go on; each new problem is told once.
        logger.log(
            level: end.isNews ? .warning : .debug,
            "the \(subject) is not shared with \(address): \(error)")
        for retry in end.retries { connect(after: retry) }
    }

    private var subject: String { replica == nil ? "load" : "index" }

    private func resolve() {
        guard case .service(let service) = configuration.peers else { return }
        loop.resolve(service.host) { [weak self] result in
            guard let self, timer != nil else { return }
            switch result {
            case .success(let hosts):
                resolveProblem = nil
                setPeers(hosts.map { SocketAddress(host: $0, port: service.port) })
            case .failure(let error):
                // Who was there stays.
                if error != resolveProblem { logger.warning("routers are not found: \(error)") }
                resolveProblem = error
            }
            resolveTimer = loop.schedule(after: configuration.resolveInterval) { [weak self] in
                self?.resolve()
            }
        }
    }
}
