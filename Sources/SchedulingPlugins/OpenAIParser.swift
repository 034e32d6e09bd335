public import Scheduling

/// `openai-parser`: the OpenAI API.
public final class OpenAIParser: RequestParser, ConfigurablePlugin {
    /// The type's name.
    public static let type = "openai-parser"
    /// Its type and name.
    public let name: PluginName
    /// The ends of the paths that it takes.
    public let paths = OpenAIParser.openAIPaths

    static let openAIPaths: [(suffix: String, api: RequestAPI)] = [
        ("/v1/completions", .completions), ("/v1/chat/completions", .chat),
        ("/v1/responses", .responses), ("/v1/embeddings", .embeddings),
        ("/v1/images/generations", .named), ("/v1/completions/render", .named),
        ("/v1/chat/completions/render", .named), ("/v1/conversations", .opaque),
    ]

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }
}
