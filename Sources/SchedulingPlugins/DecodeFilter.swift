import Core
public import Scheduling

/// `decode-filter`: keeps endpoints that generate tokens, by role label or for want of one.
public final class DecodeFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "decode-filter"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Keeps endpoints that take decode.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { !context.endpoints[$0].takesDecode }
    }
}
