internal import Core

/// The HTTP APIs of model servers, by what the router reads of their bodies.
public enum RequestAPI: Sendable, CaseIterable {
    /// OpenAI's completions.
    case completions
    /// OpenAI's chat completions.
    case chat
    /// OpenAI's responses.
    case responses
    /// OpenAI's embeddings.
    case embeddings
    /// Anthropic's messages.
    case messages
    /// vLLM's generation from token ids.
    case generate
    /// A body that names a model, of which the router reads no more.
    case named
    /// Anything: passed on unread.
    case opaque
}

/// Says which requests the router reads, and as what: `requestHandler.parsers`.
public protocol RequestParser: Plugin {
    /// The ends of the paths that it takes; the empty one takes every path.
    var paths: [(suffix: String, api: RequestAPI)] { get }
}

/// The parsers of a configuration. Of two that take a path, the one with the longer suffix reads
/// it, else the one that comes first.
struct RequestParsers: Sendable {
    /// The longest suffix first, in UTF-8.
    private let paths: [(suffix: [UInt8], api: RequestAPI)]

    /// Takes parsers in the order of the configuration; none leaves every body unread.
    init(_ parsers: [any RequestParser]) {
        let all = parsers.flatMap(\.paths).map { (suffix: Array($0.suffix.utf8), api: $0.api) }
        paths = all.enumerated().sorted {
            let (left, right) = ($0.element.suffix.count, $1.element.suffix.count)
            return left == right ? $0.offset < $1.offset : left > right
        }.map(\.element)
    }

    /// What a POST to `path`, which has no query, is; nil if no parser takes it.
    func api(ofPath path: Substring) -> RequestAPI? {
        paths.isEmpty ? .opaque : paths.first { path.hasUTF8Suffix($0.suffix) }?.api
    }
}

/// What a request's body says beside its prompt, and what its model is.
public struct RequestDetails: Sendable {
    /// The API.
    public var api = RequestAPI.opaque
    /// Whether the response comes token by token.
    public var isStreaming = false
    /// The most tokens to generate, if the client set a limit.
    public var maximumOutputTokens: Int?
    /// The model that the target model is an adapter of, if it is known to be one.
    public var baseModel: String?

    /// Nothing is known.
    public init() {}
}
