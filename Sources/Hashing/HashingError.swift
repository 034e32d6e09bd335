import CHashing

/// Why a hasher or extra keys cannot be made.
public enum HashingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Not a number of tokens that the algorithm takes: 1 to 4294967295, or to 4096 where blocks
    /// are pickled.
    case blockSize(Int)
    /// Extra keys that the algorithm cannot encode, and why.
    case extraKeys(String)

    /// What was wrong, for people.
    public var description: String {
        switch self {
        case .blockSize(let size): "block size \(size): the algorithm has no such blocks"
        case .extraKeys(let reason): "extra keys: \(reason)"
        }
    }
}
