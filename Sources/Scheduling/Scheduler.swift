public import Core

/// The plugins of a configuration, put together. Shared by all threads.
public final class Scheduler: Sendable {
    /// The profiles by configured order.
    public let profiles: [SchedulingProfile]
    /// Whether a producer needs the token ids of prompts.
    public let needsTokens: Bool

    private let parsers: RequestParsers
    private let handler: any ProfileHandler
    private let producers: [any DataProducer]
    private let preRequests: [any PreRequest]

    /// Puts plugins together; `plugins` are all of the configuration, in their order, `parsers`
    /// those that read requests, in theirs.
    public init(
        handler: any ProfileHandler, profiles: [SchedulingProfile], plugins: [any Plugin],
        parsers: [any RequestParser] = []
    ) {
        self.handler = handler
        self.parsers = RequestParsers(parsers)
        self.profiles = profiles
        producers = plugins.compactMap { $0 as? any DataProducer }
        preRequests = plugins.compactMap { $0 as? any PreRequest }
        needsTokens = producers.contains { $0.needsTokens }
    }

    /// What a request is to be read as; nil if no parser takes it. `path` has no query.
    public func api(ofMethod method: String, path: some StringProtocol) -> RequestAPI? {
        method == "POST" ? parsers.api(ofPath: path) : .opaque
    }

    /// Runs the producers and the profile handler. The caller has set `context` and `eligible`.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard !cycle.eligible.isEmpty else { throw .noEndpoints }
        cycle.profiles = profiles
        cycle.context.forgetPrefixMatches()
        for producer in producers {
            producer.produce(into: &cycle.context)
        }
        return try handler.schedule(&cycle)
    }

    /// Runs the plugins that act on a decision; returns their changes to the request's headers.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext
    ) -> [HeaderMutation] {
        var headers: [HeaderMutation] = []
        for plugin in preRequests {
            plugin.prepare(result, in: context, headers: &headers)
        }
        return headers
    }
}
