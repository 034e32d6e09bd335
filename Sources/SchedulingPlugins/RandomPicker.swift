public import Configuration
public import Scheduling

/// `random-picker`: any candidate, whatever its score.
public final class RandomPicker: Picker, ConfigurablePlugin {
    /// The type's name.
    public static let type = "random-picker"
    /// Its type and name.
    public let name: PluginName

    private let limit: Int

    /// Parameters: `maxNumOfEndpoints` (1).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        limit = try source.maxNumOfEndpoints()
    }

    /// Shuffles as many places as are asked for.
    public func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        for place in 0..<min(limit, candidates.count) {
            candidates.swapAt(place, Int.random(in: place..<candidates.count, using: &random))
        }
        candidates.truncate(to: limit)
    }
}
