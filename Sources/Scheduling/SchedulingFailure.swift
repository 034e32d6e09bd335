public import Core

/// Why no endpoint could be picked.
public enum SchedulingFailure: Error, Equatable, Sendable {
    /// There was no candidate to begin with: the pool, or the part of it asked for, is empty.
    case noEndpoints
    /// A screener ruled the last candidate out.
    case screened(by: String)
    /// A filter ruled the last candidate out.
    case filtered(profile: String, filter: String)
    /// A plugin refused the request, with what the client is told.
    case refused(by: String, APIError)

    /// Who refused, in a few words, for records.
    public var summary: String {
        switch self {
        case .noEndpoints: "no endpoints"
        case .screened(let screener): "screened by \(screener)"
        case .filtered(let profile, let filter): "filtered by \(filter) in \(profile)"
        case .refused(let plugin, let error): "refused by \(plugin) with \(error.status)"
        }
    }

    /// What the client is told.
    public var apiError: APIError {
        switch self {
        case .noEndpoints:
            .dropped(status: 503, reason: .noEndpoints, "There is no model server to take this.")
        case .screened(let screener):
            .dropped(
                status: 503, reason: .noEndpoints,
                "No model server is left for this request after '\(screener)'.")
        case .filtered(let profile, let filter):
            .dropped(
                status: 429, reason: .saturated,
                "No model server is left for profile '\(profile)' after '\(filter)'.")
        case .refused(_, let error): error
        }
    }
}
