public import Scheduling

/// `always-disagg-pd-decider`: disaggregates every request.
public final class AlwaysDisaggPDDecider: PDDecider, ConfigurablePlugin {
    /// The type's name.
    public static let type = "always-disagg-pd-decider"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Always.
    public func disaggregates(decode: Int, in context: SchedulingContext) -> Bool { true }
}
