public import Scheduling

/// `passthrough-parser`: every path, unread.
public final class PassthroughParser: RequestParser, ConfigurablePlugin {
    /// The type's name.
    public static let type = "passthrough-parser"
    /// Its type and name.
    public let name: PluginName
    /// Every path.
    public let paths: [(suffix: String, api: RequestAPI)] = [("", .opaque)]

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }
}
