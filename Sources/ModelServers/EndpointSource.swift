public import Configuration
public import Core
public import Logging
public import Net

/// A place that says which endpoints there are.
public protocol EndpointSource: Sendable {
    /// Makes a pool what the source says: on return as far as that is known without waiting, and
    /// on `loop` from then on, until its end. Called once, by any thread.
    ///
    /// - Throws: What keeps the source from ever saying anything.
    func start(filling pool: EndpointPool, on loop: EventLoop) throws(ConfigError)
}

/// Endpoints that stay as they are.
public struct StaticEndpoints: EndpointSource {
    private let servers: [ModelServer]

    /// Makes a source of servers whose names are unique.
    public init(_ servers: [ModelServer]) {
        self.servers = servers
    }

    /// Fills the pool once.
    public func start(filling pool: EndpointPool, on loop: EventLoop) {
        pool.update(servers)
    }
}

/// The endpoints of a discovery file, which is followed; see ``EndpointFile``.
public struct FileEndpoints: EndpointSource {
    private let path: String
    private let logger: Logger

    /// Makes a source; the file is not looked at yet.
    public init(path: String, logger: Logger) {
        self.path = path
        self.logger = logger
    }

    /// - Throws: What is wrong with the file now. Later a file that is wrong changes nothing.
    public func start(filling pool: EndpointPool, on loop: EventLoop) throws(ConfigError) {
        let contents = try EndpointFile.contents(at: path)
        pool.update(contents.servers, rules: contents.rules)
        loop.execute { [path, logger] in
            EndpointFileWatcher(path: path, pool: pool, logger: logger).start(on: loop)
        }
    }
}
