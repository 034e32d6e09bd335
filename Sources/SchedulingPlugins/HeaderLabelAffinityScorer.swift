public import Configuration
public import Core
public import Scheduling

/// `header-label-affinity-scorer`: 1 for endpoints whose label has the value of a header of the
/// request, 0 for others. The response tells the label of the endpoint in the same header.
public final class HeaderLabelAffinityScorer: Scorer, ResponseObserver, ConfigurablePlugin {
    /// The type's name.
    public static let type = "header-label-affinity-scorer"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "a header of the request" }

    private let header: String
    private let label: String
    private let stampsResponse: Bool

    /// Parameters: `headerName`, `labelKey`, `stampResponseHeader` (true).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        header = try source.parameters.required("headerName").string().lowercased()
        label = try source.parameters.required("labelKey").string()
        stampsResponse =
            try source.parameters.optional("stampResponseHeader")?.boolean() ?? true
    }

    /// All 0 without the header.
    public func score(
        _ candidates: [Int], in context: SchedulingContext,
        into scores: inout MutableSpan<Double>
    ) {
        guard let wanted = context.request.headers.value(ofHeader: header), !wanted.isEmpty else {
            return
        }
        for (i, candidate) in candidates.enumerated()
        where context.endpoints[candidate].server.labels[label] == wanted {
            scores[i] = 1
        }
    }

    /// Tells the label.
    public func responseStarted(
        _ head: ResponseHead, to request: RoutedRequest, headers: inout [HeaderMutation]
    ) {
        guard stampsResponse, let value = head.server.server.labels[label] else { return }
        headers.append(.set(name: header, value: value))
    }
}
