package import Core
public import Logging
public import Net

/// Looks host names up.
public protocol HostResolver: Sendable {
    /// Looks a name up. On the loop; `body` is called there, once, unless the loop ends before,
    /// with the literals of all addresses, sorted and each once.
    func resolve(
        _ host: String, on loop: EventLoop,
        _ body: @escaping (Result<[String], NetError>) -> Void)
}

/// The system's resolver: `/etc/hosts`, DNS, and what else the machine is set to ask.
public struct SystemResolver: HostResolver {
    /// Makes one.
    public init() {}

    /// As ``EventLoop/resolve(_:_:)``.
    public func resolve(
        _ host: String, on loop: EventLoop,
        _ body: @escaping (Result<[String], NetError>) -> Void
    ) {
        loop.resolve(host, body)
    }
}

/// The endpoints at all addresses of some host names, which are looked up again and again.
///
/// A name that cannot be looked up keeps its last addresses for a while: endpoints that are gone
/// show in their scrapes, but a name server that is gone must not take a pool with it.
public struct DNSEndpoints: EndpointSource {
    /// How names are looked up.
    public struct Configuration: Sendable {
        /// The names.
        public var names: [DNSName]
        /// How often each is looked up.
        public var interval = Duration.seconds(10)
        /// How long the addresses of a name count after it was last looked up with success.
        public var keepTime = Duration.seconds(300)

        /// The defaults for some names.
        public init(names: [DNSName]) {
            self.names = names
        }
    }

    private let configuration: Configuration
    private let resolver: any HostResolver
    private let logger: Logger

    /// Makes a source; nothing is looked up yet.
    public init(
        _ configuration: Configuration, resolver: any HostResolver = SystemResolver(),
        logger: Logger
    ) {
        self.configuration = configuration
        self.resolver = resolver
        self.logger = logger
    }

    /// Begins to look names up; the pool is empty until the first answer.
    public func start(filling pool: EndpointPool, on loop: EventLoop) {
        loop.execute { [self] in
            DNSFollower(configuration, resolver, pool, logger, loop).start()
        }
    }
}

/// Keeps a pool as name servers say. Belongs to a loop.
private final class DNSFollower {
    private let resolver: any HostResolver
    private let pool: EndpointPool
    private let logger: Logger
    private let loop: EventLoop
    private let interval: Duration
    private var answers: DNSAnswers
    private var isAsking: [Bool]
    private var problems: [NetError?]
    private var servers: [ModelServer] = []

    init(
        _ configuration: DNSEndpoints.Configuration, _ resolver: any HostResolver,
        _ pool: EndpointPool, _ logger: Logger, _ loop: EventLoop
    ) {
        self.resolver = resolver
        self.pool = pool
        self.logger = logger
        self.loop = loop
        interval = configuration.interval
        answers = DNSAnswers(configuration.names, keepTime: configuration.keepTime)
        isAsking = configuration.names.map { _ in false }
        problems = configuration.names.map { _ in nil }
    }

    func start() {
        ask()
        loop.schedule(every: interval) { self.ask() }
    }

    private func ask() {
        // Also while an answer is waited for: what is too old goes.
        update()
        for (index, name) in answers.names.enumerated() where !isAsking[index] {
            isAsking[index] = true
            resolver.resolve(name.address.host, on: loop) { self.answered(index, $0) }
        }
    }

    private func answered(_ index: Int, _ result: Result<[String], NetError>) {
        isAsking[index] = false
        switch result {
        case .success(let hosts):
            problems[index] = nil
            answers.set(hosts, of: index, at: .now)
        case .failure(let error):
            if error != problems[index] {
                logger.warning("endpoints are not looked up: \(error)")
            }
            problems[index] = error
        }
        update()
    }

    private func update() {
        let servers = answers.servers(at: .now)
        guard servers != self.servers else { return }
        self.servers = servers
        pool.update(servers)
        logger.info("endpoints looked up", metadata: ["endpoints": "\(servers.count)"])
    }
}

/// What is known of names at a time. A value: no clock, no resolver.
package struct DNSAnswers {
    private struct Answer {
        var hosts: [String]
        var time: MonotonicTime
    }

    package let names: [DNSName]
    private let keepTime: Duration
    private var answers: [Answer?]

    package init(_ names: [DNSName], keepTime: Duration) {
        self.names = names
        self.keepTime = keepTime
        answers = names.map { _ in nil }
    }

    /// A name was looked up with success.
    package mutating func set(_ hosts: [String], of index: Int, at now: MonotonicTime) {
        answers[index] = Answer(hosts: hosts, time: now)
    }

    /// The endpoints, in the order of names and of their addresses. An address that several names
    /// have is that of the first.
    package func servers(at now: MonotonicTime) -> [ModelServer] {
        var servers: [ModelServer] = []
        var seen: Set<SocketAddress> = []
        for case (let name, let answer?) in zip(names, answers) where now - answer.time <= keepTime
        {
            for host in answer.hosts where name.counts(host) {
                let server = name.server(at: host)
                if seen.insert(server.address).inserted { servers.append(server) }
            }
        }
        return servers
    }
}
