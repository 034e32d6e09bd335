public import Scheduling

/// Decides whether a prompt is worth computing on another endpoint than the one that decodes.
public protocol PDDecider: Plugin {
    /// `decode` is the endpoint picked to decode, an index into `context.endpoints`.
    func disaggregates(decode: Int, in context: SchedulingContext) -> Bool
}
