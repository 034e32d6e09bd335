public import Configuration
import Core
public import Scheduling

/// `header-profile-handler`: runs the profile that a header of the request names; for callers
/// that know which stage a call is for.
public final class HeaderProfileHandler: ProfileHandler, ConfigurablePlugin {
    /// The type's name.
    public static let type = "header-profile-handler"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "a header of the request" }

    private let header: String
    private let defaultProfile: String

    /// Parameters: `headerName` (EPP-Profile), `defaultProfile` (decode).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        header =
            try source.parameters.optional("headerName")?.string().lowercased() ?? "epp-profile"
        defaultProfile = try source.parameters.optional("defaultProfile")?.string() ?? "decode"
    }

    /// With more than one profile there must be the one for requests without the header.
    public func problem(withProfiles names: [String]) -> String? {
        names.count == 1 || names.contains(defaultProfile)
            ? nil : "needs a profile '\(defaultProfile)'"
    }

    /// A single profile always runs. The name of a profile that there is not is answered 400.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        guard cycle.profiles.count > 1 else { return SchedulingResult(primary: try cycle.run(0)) }
        let given = cycle.context.request.headers.value(ofHeader: header) ?? ""
        let blank = given.allSatisfy { $0 == " " }
        guard let profile = cycle.profile(named: blank ? defaultProfile : given) else {
            throw .refused(
                by: name.name,
                .badRequest("The header \(header) names no profile: '\(given)'."))
        }
        return SchedulingResult(primary: try cycle.run(profile))
    }
}
