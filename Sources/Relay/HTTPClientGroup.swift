public import Net

/// A client for every loop of a group, so that a request goes on where it came in. Any thread.
public struct HTTPClientGroup: Sendable {
    private let clients: [HTTPClient]

    /// Makes a client per loop.
    public init(on group: EventLoopGroup, configuration: HTTPClientConfiguration) {
        clients = group.loops.map { HTTPClient(on: $0, configuration: configuration) }
    }

    /// The client of a loop of the group.
    public func client(on loop: EventLoop) -> HTTPClient {
        guard let client = clients.first(where: { $0.loop === loop }) else {
            preconditionFailure("the loop does not belong to the group of the clients")
        }
        return client
    }

    /// Closes every connection of every client.
    public func shutdown() {
        for client in clients { client.loop.execute { client.shutdown() } }
    }
}
