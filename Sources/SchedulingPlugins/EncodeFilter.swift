import Core
public import Scheduling

/// `encode-filter`: keeps endpoints whose role label lets them encode media for others.
public final class EncodeFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "encode-filter"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Keeps endpoints that take encode.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { !context.endpoints[$0].takesEncode }
    }
}
