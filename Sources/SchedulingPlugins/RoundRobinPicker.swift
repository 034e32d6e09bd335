public import Configuration
public import Scheduling
import Synchronization

/// `round-robin-picker`: each endpoint in its turn, by its place in the pool. Not upstream's.
public final class RoundRobinPicker: Picker, ConfigurablePlugin {
    /// The type's name.
    public static let type = "round-robin-picker"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "whose turn it is" }

    private let limit: Int
    private let turn = Atomic<Int>(0)

    /// Parameters: `maxNumOfEndpoints` (1).
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        limit = try source.maxNumOfEndpoints()
    }

    /// Takes the candidate whose turn it is and those after it.
    public func pick(_ candidates: inout [ScoredCandidate], random: inout RandomSource) {
        let turn = self.turn.wrappingAdd(1, ordering: .relaxed).oldValue
        let first = Int(UInt(bitPattern: turn) % UInt(candidates.count))
        let picked = (0..<min(limit, candidates.count)).map {
            candidates[(first + $0) % candidates.count]
        }
        candidates = picked
    }
}
