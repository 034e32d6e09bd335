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

/// Two ways at once.
final class JointSharing: IndexSharing {
    private let both: [any IndexSharing]

    init(_ first: any IndexSharing, _ second: any IndexSharing) {
        both = [first, second]
    }

    func update(_ servers: [ModelServer]) { for one in both { one.update(servers) } }

    func applied(_ changes: [BlockChange], at endpoint: String) {
        for one in both { one.applied(changes, at: endpoint) }
    }

    func lost(_ endpoint: String) { for one in both { one.lost(endpoint) } }

    func close() { for one in both { one.close() } }
}
