public import Core
public import KVIndex
public import Logging
public import Net

/// A way to share an index with other routers. Lives on the event loop of its ``KVEventSource``.
///
/// Lookups never wait for it: they are answered from the index, which the sharing changes by what
/// it learns from others.
public protocol IndexSharing: AnyObject {
    /// The pool as it is now. Each server's endpoint in the index has its name.
    func update(_ servers: [ModelServer])
    /// What an engine's events changed, in its order; none if they changed nothing, or none are
    /// missing after a connection was lost.
    func applied(_ changes: [BlockChange], at endpoint: String)
    /// An engine's events come no more, until some are applied: what others know is newer.
    func lost(_ endpoint: String)
    /// Stops to share.
    func close()
}

/// Where a sharing lives.
public struct IndexSharingEnvironment {
    /// The index to be shared.
    public let index: KVIndex
    /// The loop on which everything happens.
    public let loop: EventLoop
    /// For what people should know.
    public let logger: Logger

    package init(index: KVIndex, loop: EventLoop, logger: Logger) {
        self.index = index
        self.loop = loop
        self.logger = logger
    }
}
