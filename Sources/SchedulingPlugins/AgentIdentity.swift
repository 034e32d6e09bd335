public import Configuration
import Core
public import Scheduling

/// `agent-identity`: the session of a coding agent, by the headers that agents set. It is the
/// fairness id of requests that name none.
public final class AgentIdentity: RequestProcessor, ConfigurablePlugin {
    /// The type's name.
    public static let type = "agent-identity"
    /// Its type and name.
    public let name: PluginName

    private let headers: [String]

    /// Parameters: `additionalSessionHeaders` (none), which are looked at first.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        var headers: [String] = []
        for entry in try source.parameters.optional("additionalSessionHeaders")?.list() ?? [] {
            headers.append(try entry.string().lowercased())
        }
        self.headers =
            headers + [
                "x-claude-code-session-id", "x-session-affinity", "session-id", "session_id",
            ]
    }

    /// Takes the first that is not empty.
    public func process(_ request: inout SchedulingRequest) {
        for header in headers {
            guard let value = request.headers.value(ofHeader: header), !value.isEmpty else {
                continue
            }
            request.agentIdentity = value
            return
        }
    }
}
