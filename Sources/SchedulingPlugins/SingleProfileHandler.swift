public import Scheduling

/// `single-profile-handler`: runs the one profile there is.
public final class SingleProfileHandler: ProfileHandler, ConfigurablePlugin {
    /// The type's name.
    public static let type = "single-profile-handler"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// There must be one profile.
    public func problem(withProfiles names: [String]) -> String? {
        names.count == 1 ? nil : "runs one profile, not \(names.count)"
    }

    /// Its picks are the result.
    public func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        SchedulingResult(primary: try cycle.run(0))
    }
}
