public import Configuration
public import Scheduling

/// `max-score-picker`: the highest scores; equals in random order.
public final class MaxScorePicker: Picker, ConfigurablePlugin {
    /// The type's name.
    public static let type = "max-score-picker"
    /// Its type and name.
    public let name: PluginName

    private let limit: Int

    /// Parameters: `maxNumOfEndpoints` (1).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        limit = try source.maxNumOfEndpoints()
    }

    /// Moves the best to the front, one place after the other.
    public func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        for place in 0..<min(limit, candidates.count) {
            var best = place
            var equals: UInt64 = 1
            for i in (place + 1)..<max(place + 1, candidates.count) {
                if candidates[i].score > candidates[best].score {
                    best = i
                    equals = 1
                } else if candidates[i].score == candidates[best].score {
                    // Each of n equals is kept with probability 1/n (reservoir sampling).
                    equals += 1
                    if random.next(upperBound: equals) == 0 { best = i }
                }
            }
            candidates.swapAt(place, best)
        }
        candidates.truncate(to: limit)
    }
}
