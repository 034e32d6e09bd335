/// Why the index refuses something.
public enum KVIndexError: Error, Equatable, Sendable, CustomStringConvertible {
    /// More endpoints than ``KVIndex/maximumEndpointCount`` at a time.
    case tooManyEndpoints
    /// The configuration holds a value that cannot be.
    case configuration(String)
    /// A KV-event payload is not what engines send; `offset` is the byte where it goes wrong.
    case malformedEvents(offset: Int, reason: String)

    /// One line for people.
    public var description: String {
        switch self {
        case .tooManyEndpoints:
            "the index holds \(KVIndex.maximumEndpointCount) endpoints already"
        case .configuration(let reason): "index configuration: \(reason)"
        case .malformedEvents(let offset, let reason): "KV events, byte \(offset): \(reason)"
        }
    }
}
