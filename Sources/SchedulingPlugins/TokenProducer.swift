public import Configuration
import Core
public import Scheduling

/// `token-producer`: where the tokens of a prompt come from.
///
/// `estimate` counts 4 bytes of text as a token. `vllm` has the text tokenized by an engine of the
/// pool, which renders it as it would to answer it.
public final class TokenProducer: DataProducer, ConfigurablePlugin {
    /// The type's name.
    public static let type = "token-producer"
    /// Its type and name.
    public let name: PluginName

    private enum Backend: String, CaseIterable {
        case estimate
        case vllm
    }

    /// The token ids, unless they are estimated.
    public let promptNeeds: PromptNeeds
    private let tokensPerImage: Int

    /// Parameters: `backend` (estimate, or vllm if `modelName` or `vllm` is given), `modelName`
    /// and `vllm.url` (engines of the pool are asked whatever they say), and of `estimate.image`
    /// `mode` (dynamic, or static), `defaultResolution` (640 x 360), `dynamic.factor` (1024) and
    /// `static.staticToken`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        let model = source.parameters.optional("modelName")
        let vllm = source.parameters.optional("vllm")
        try vllm?.section { (section) throws(ConfigError) in
            for key in ["url", "http", "timeout", "mmTimeout"] { _ = section.optional(key) }
        }
        let given = try source.parameters.optional("backend")?.choice(of: Backend.self)
        let backend = given ?? (model == nil && vllm == nil ? .estimate : .vllm)
        let image = try source.parameters.orEmpty("estimate").section {
            (section) throws(ConfigError) in
            try section.orEmpty("image").section { (section) throws(ConfigError) in
                try Self.tokensPerImage(&section)
            }
        }
        tokensPerImage = image
        promptNeeds = backend == .vllm ? [.tokens, .media] : .media
    }

    private static func tokensPerImage(
        _ section: inout ConfigSection
    ) throws(ConfigError) -> Int {
        enum Mode: String, CaseIterable {
            case dynamic
            case `static`
        }
        let mode = try section.optional("mode")?.choice(of: Mode.self) ?? .dynamic
        let pixels = try section.orEmpty("defaultResolution").section {
            (section) throws(ConfigError) in
            try (section.optional("width")?.integer(in: 1...65536) ?? 640)
                * (section.optional("height")?.integer(in: 1...65536) ?? 360)
        }
        let factor = try section.orEmpty("dynamic").section { (section) throws(ConfigError) in
            try section.optional("factor")?.integer(in: 1...1 << 30) ?? 1024
        }
        let fixed = try section.orEmpty("static").section { (section) throws(ConfigError) in
            try section.optional("staticToken")?.integer(in: 0...1 << 20)
        }
        return mode == .dynamic ? pixels / factor : fixed ?? 0
    }

    /// Counts the images of a prompt whose tokens are estimated.
    public func produce(into context: inout SchedulingContext) {
        guard context.request.tokenCount == 0 else { return }
        let images = context.request.media.count { $0.kind == .image }
        context.request.promptTokenCount += images * tokensPerImage
    }
}
