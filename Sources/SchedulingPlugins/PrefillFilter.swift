import Core
public import Scheduling

/// `prefill-filter`: keeps endpoints whose role label lets them compute prompts for others.
public final class PrefillFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "prefill-filter"
    /// Its type and name.
    public let name: PluginName

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Keeps endpoints that take prefill.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { !context.endpoints[$0].takesPrefill }
    }
}
