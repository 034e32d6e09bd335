public import Scheduling

/// `anthropic-parser`: the Anthropic Messages API.
public final class AnthropicParser: RequestParser, ConfigurablePlugin {
    /// The type's name.
    public static let type = "anthropic-parser"
    /// Its type and name.
    public let name: PluginName
    /// The ends of the paths that it takes.
    public let paths: [(suffix: String, api: RequestAPI)] = [
        ("/v1/messages", .messages), ("/v1/messages/count_tokens", .named),
    ]

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }
}
