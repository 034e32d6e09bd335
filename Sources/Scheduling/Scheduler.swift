public import Core

/// The plugins of a configuration, put together. Shared by all threads.
public final class Scheduler: Sendable {
    /// The profiles by configured order.
    public let profiles: [SchedulingProfile]
    /// What the plugins want to know of prompts.
    public let promptNeeds: PromptNeeds
    /// Whether responses must be told of.
    public let observesResponses: Bool

    private let parsers: RequestParsers
    private let handler: any ProfileHandler
    private let processors: [any RequestProcessor]
    private let screeners: [any Screener]
    private let producers: [any DataProducer]
    private let followers: [any PromptFollower]
    private let admitters: [any Admitter]
    private let preRequests: [any PreRequest]
    private let observers: [any ResponseObserver]
    private let inquirers: [any Inquirer]
    private let reporters: [any ResponseReporter]

    /// Puts plugins together; `plugins` are all of the configuration, in their order. `parsers` say
    /// what requests are, in their order; without one every body is left unread.
    public init(
        handler: any ProfileHandler, profiles: [SchedulingProfile], plugins: [any Plugin],
        parsers: [any RequestParser] = []
    ) {
        self.handler = handler
        self.profiles = profiles
        self.parsers = RequestParsers(parsers)
        processors = plugins.compactMap { $0 as? any RequestProcessor }
        screeners = plugins.compactMap { $0 as? any Screener }
        producers = plugins.compactMap { $0 as? any DataProducer }
        followers = plugins.compactMap { $0 as? any PromptFollower }
        admitters = plugins.compactMap { $0 as? any Admitter }
        preRequests = plugins.compactMap { $0 as? any PreRequest }
        observers = plugins.compactMap { $0 as? any ResponseObserver }
        inquirers = plugins.compactMap { $0 as? any Inquirer }
        reporters = plugins.compactMap { $0 as? any ResponseReporter }
        observesResponses = !observers.isEmpty
        promptNeeds = plugins.reduce(into: []) { $0.formUnion($1.promptNeeds) }
    }

    /// Whether a plugin needs the token ids of prompts.
    public var needsTokens: Bool { promptNeeds.contains(.tokens) }

    /// What a request is to be read as; nil if no parser takes it. `path` has no query.
    public func api(ofMethod method: String, path: Substring) -> RequestAPI? {
        method == "POST" ? parsers.api(ofPath: path) : .opaque
    }

    /// Runs the plugins that read a request's headers. The caller has set them and the priority.
    public func process(_ request: inout SchedulingRequest) throws(SchedulingFailure) {
        try request.readLatencyObjectives()
        for processor in processors {
            try processor.process(&request)
        }
    }

    /// Whether ``follow(_:)`` may find anything to do on text.
    package var followsPrompts: Bool { !followers.isEmpty }

    /// Has the producers that follow prompts start on one; nil if one of them cannot, and all of
    /// the prompt is wanted at its end.
    package func follow(
        _ beginning: PromptBeginning
    ) -> [(producer: String, work: any PromptWork)]? {
        var works: [(producer: String, work: any PromptWork)] = []
        for follower in followers {
            guard let work = follower.follow(beginning) else { return nil }
            works.append((follower.name.name, work))
        }
        return works
    }

    /// Whether ``inquiries(about:)`` may find any.
    public var inquires: Bool { !inquirers.isEmpty }

    /// What to ask services before the decision about a request. The caller has set `context` and
    /// `eligible`, and each inquiry must be ended.
    public func inquiries(about cycle: inout SchedulingCycle) -> [Inquiry] {
        guard !cycle.eligible.isEmpty else { return [] }
        cycle.context.forgetFindings()
        // What is wrong here is as wrong at the decision, which says so.
        guard (try? screen(&cycle)) != nil else { return [] }
        for producer in producers {
            producer.produce(into: &cycle.context)
        }
        return inquirers.compactMap { Inquiry(of: $0, about: cycle.eligible, in: cycle.context) }
    }

    /// Runs screeners, producers, admitters and the profile handler. The caller has set `context`
    /// and `eligible`.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard !cycle.eligible.isEmpty else { throw .noEndpoints }
        cycle.context.forgetFindings()
        try screen(&cycle)
        for producer in producers {
            producer.produce(into: &cycle.context)
        }
        return try choose(&cycle, among: profiles)
    }

    /// Decides again what was decided before: `context` holds what producers found out then, and
    /// is not asked for anew. `profiles` stand in for those of the configuration.
    public func scheduleAgain(
        _ cycle: inout SchedulingCycle, with profiles: [SchedulingProfile]
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard !cycle.eligible.isEmpty else { throw .noEndpoints }
        try screen(&cycle)
        return try choose(&cycle, among: profiles)
    }

    private func screen(_ cycle: inout SchedulingCycle) throws(SchedulingFailure) {
        cycle.context.seed = cycle.random.next()
        for screener in screeners {
            try screener.screen(&cycle.eligible, in: cycle.context)
            if cycle.eligible.isEmpty { throw .screened(by: screener.name.name) }
        }
    }

    private func choose(
        _ cycle: inout SchedulingCycle, among profiles: [SchedulingProfile]
    ) throws(SchedulingFailure) -> SchedulingResult {
        cycle.profiles = profiles
        for admitter in admitters {
            try admitter.admit(cycle.eligible, in: cycle.context)
        }
        let result = try handler.schedule(&cycle)
        try refuseUnlessCached(result, in: cycle.context)
        return result
    }

    /// `Prefer: if-available` (RFC 7240 syntax) asks for an endpoint that holds some of the
    /// prompt, or none.
    private func refuseUnlessCached(
        _ result: SchedulingResult, in context: SchedulingContext
    ) throws(SchedulingFailure) {
        guard context.request.wantsCachedPrompt else { return }
        let pick = result.primary[0].index
        let isCached = context.prefixMatches.contains {
            $0.totalBlocks > 0 && $0.matchedBlocks[pick] > 0
        }
        guard !isCached else { return }
        throw .refused(
            by: "if-available",
            APIError(
                status: 412, type: "PreconditionFailed",
                message: "No model server holds a part of the prompt."))
    }

    /// Runs the plugins that act on a decision; returns their changes to the request's headers.
    /// ``requestEnded(_:usage:)`` must follow once.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext
    ) -> [HeaderMutation] {
        var headers: [HeaderMutation] = []
        for plugin in preRequests {
            plugin.prepare(result, in: context, headers: &headers)
        }
        return headers
    }

    /// Tells plugins of a response; returns their changes to its headers.
    public func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest
    ) -> [HeaderMutation] {
        var headers: [HeaderMutation] = []
        for observer in observers {
            observer.responseStarted(head, to: request, headers: &headers)
        }
        return headers
    }

    /// What the data plane is told at the end of a response.
    public func attributes(of usage: TokenUsage?) -> [ReportedAttribute] {
        reporters.compactMap { $0.attribute(of: usage) }
    }

    /// Whether ``attributes(of:)`` may find any.
    public var reportsAttributes: Bool { !reporters.isEmpty }

    /// Tells plugins that a request is at its endpoint no more.
    public func requestEnded(_ request: RoutedRequest, usage: TokenUsage?) {
        for observer in observers {
            observer.requestEnded(request, usage: usage)
        }
    }
}

extension SchedulingRequest {
    /// Whether the request asks for an endpoint that holds some of the prompt, or none:
    /// `Prefer: if-available`.
    public var wantsCachedPrompt: Bool {
        headers.value(ofHeader: "prefer")?.split(separator: ",")
            .contains { $0.isPreference("if-available") } ?? false
    }
}

extension Substring {
    /// Whether this is a preference of a name, with or without parameters.
    fileprivate func isPreference(_ name: String) -> Bool {
        let token = prefix { $0 != ";" }
        return token.drop { $0 == " " }.lowercased().split(separator: " ").first.map(String.init)
            == name
    }
}
