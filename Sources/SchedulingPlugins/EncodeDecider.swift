public import Scheduling

/// Decides whether a request's media are worth encoding on other endpoints.
public protocol EncodeDecider: Plugin {
    /// `decode` is the endpoint picked to decode, an index into `context.endpoints`.
    func encodesElsewhere(decode: Int, in context: SchedulingContext) -> Bool
}

/// `always-disagg-multimodal-decider`: has the media of every request that has any encoded
/// elsewhere.
public final class AlwaysDisaggMultimodalDecider: EncodeDecider, ConfigurablePlugin {
    /// The type's name.
    public static let type = "always-disagg-multimodal-decider"
    /// Its type and name.
    public let name: PluginName
    /// The media.
    public var promptNeeds: PromptNeeds { .media }

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Whether there are any.
    public func encodesElsewhere(decode: Int, in context: SchedulingContext) -> Bool {
        !context.request.media.isEmpty
    }
}
