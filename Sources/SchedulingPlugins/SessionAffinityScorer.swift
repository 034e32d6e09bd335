public import Configuration
public import Core
public import Scheduling

/// `session-affinity-scorer`: 1 for the endpoint of the request's session, 0 for the others.
public final class SessionAffinityScorer:
    Scorer, PreRequest, ResponseObserver, ConfigurablePlugin
{
    /// The type's name.
    public static let type = "session-affinity-scorer"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "the request's session and where it went" }

    private let affinity: SessionAffinity

    /// Parameters: those of `session-affinity-filter`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        affinity = try SessionAffinity(&source)
    }

    /// All 0 where the session has no endpoint.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let bound = affinity.candidate(among: candidates, in: context) else { return }
        for (i, candidate) in candidates.enumerated() where candidate == bound { scores[i] = 1 }
    }

    /// Remembers where the session went.
    public func prepare(
        _ result: SchedulingResult, in context: SchedulingContext,
        headers: inout [HeaderMutation]
    ) {
        affinity.remember(result, in: context)
    }

    /// Gives the client its token.
    public func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {
        affinity.writeToken(head, to: request, headers: &headers)
    }
}
