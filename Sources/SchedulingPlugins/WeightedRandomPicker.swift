public import Configuration
public import Scheduling

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// `weighted-random-picker`: random, in proportion to the scores.
///
/// Each candidate draws the key U^(1/score), U uniform in (0, 1); the highest keys win
/// (Efraimidis and Spirakis, algorithm A-Res). A score of 0 wins only where all are 0.
public final class WeightedRandomPicker: Picker, ConfigurablePlugin {
    /// The type's name.
    public static let type = "weighted-random-picker"
    /// Its type and name.
    public let name: PluginName

    private let limit: Int

    /// Parameters: `maxNumOfEndpoints` (1).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        limit = try source.maxNumOfEndpoints()
    }

    /// Draws the candidates in the order of their keys.
    public func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        let weights = candidates.map(\.score)
        let allZero = weights.allSatisfy { $0 <= 0 }
        // The logarithm of the key orders the same and does not underflow.
        var keyed = candidates.enumerated().map { place, candidate in
            let uniform = Double.random(in: Double.leastNonzeroMagnitude..<1, using: &random)
            let weight = allZero ? 1 : weights[place]
            return (key: weight > 0 ? log(uniform) / weight : -Double.infinity, candidate)
        }
        keyed.sort { $0.key > $1.key }
        candidates.removeAll(keepingCapacity: true)
        candidates.append(contentsOf: keyed.prefix(limit).map(\.1))
    }
}
