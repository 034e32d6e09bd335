public import Configuration
public import Core
public import Scheduling

/// `session-affinity-filter`: the endpoint of the request's session, and no other while it is
/// there.
public final class SessionAffinityFilter:
    Filter, PreRequest, ResponseObserver, ConfigurablePlugin
{
    /// The type's name.
    public static let type = "session-affinity-filter"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "the request's session and where it went" }

    private let affinity: SessionAffinity

    /// Parameters: `strategy`, `profileName`, `encodedEndpointHeaderConfig`, `sessionIdConfig`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        affinity = try SessionAffinity(&source)
    }

    /// Keeps all where the session has no endpoint, or one that is not among them.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        guard let bound = affinity.candidate(among: candidates, in: context) else { return }
        candidates.removeAll { $0 != bound }
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
