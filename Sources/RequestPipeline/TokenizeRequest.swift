public import Core
import ModelServers
import Scheduling

/// A question to an engine for the token ids of a prompt.
public struct TokenizeRequest: Sendable {
    /// Engines that can answer; the first that can be reached is asked.
    public var engines: [SocketAddress]
    /// The path of the POST request.
    public var path: String
    /// The request's body, in JSON; shares the session's storage.
    public var body: [UInt8]
    /// How long to wait for the answer.
    public var timeout: Duration
    /// The longest answer to accept.
    public var maximumResponseBytes: Int
}

extension Router {
    /// The question with which healthy engines of the model, those with the fewest requests, are
    /// asked for a prompt's token ids; nil if there is none.
    func tokenizeRequest(
        for request: SchedulingRequest, path: String, body: [UInt8]
    ) -> TokenizeRequest? {
        let snapshot = pool.snapshot
        let serving = snapshot.endpointIDs(serving: request.targetModel)
        let engines = snapshot.members
            .filter { $0.isHealthy && serving?.contains($0.endpoint.id) != false }
            .sorted { $0.knownInFlightCount < $1.knownInFlightCount }
            .prefix(3).map(\.endpoint.server.address)
        guard !engines.isEmpty else { return nil }
        return TokenizeRequest(
            engines: engines, path: path, body: body, timeout: configuration.tokenizeTimeout,
            maximumResponseBytes: 16 * body.count + 65536)
    }
}
