public import Scheduling

/// `vllmhttp-parser`: vLLM's generation from token ids, and the OpenAI API beside it.
public final class VLLMHTTPParser: RequestParser, ConfigurablePlugin {
    /// The type's name.
    public static let type = "vllmhttp-parser"
    /// Its type and name.
    public let name: PluginName
    /// The ends of the paths that it takes.
    public let paths: [(suffix: String, api: RequestAPI)] =
        [("/inference/v1/generate", .generate)] + OpenAIParser.openAIPaths

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }
}
