/// Why routers do not share their indexes. The description is one line that names the cause.
public enum ReplicaError: Error, Hashable, Sendable, CustomStringConvertible {
    /// The configuration cannot be used.
    case configuration(String)
    /// The other side sent what is no frame; the text says what and where.
    case malformed(String)
    /// The other side sent a frame out of place.
    case unexpected(String)
    /// The other side speaks another version of the protocol.
    case version(UInt16)
    /// The keys of the two indexes are made differently.
    case keys(ours: String, theirs: String)
    /// The address is this router's own.
    case itself
    /// The router at the address is followed at another one already.
    case duplicate(UInt64)
    /// Nothing was heard for too long.
    case silent
    /// More than there may be of what the text names.
    case tooMany(String)
    /// The connection ended, or could not be made.
    case connection(String)

    /// One line for people.
    public var description: String {
        switch self {
        case .configuration(let problem): problem
        case .malformed(let problem): "broken: \(problem)"
        case .unexpected(let what): "out of place: \(what)"
        case .version(let version):
            "speaks version \(version) of the protocol, this router \(ReplicaFrame.version)"
        case .keys(let ours, let theirs):
            "its keys are made otherwise: \(theirs); this router's: \(ours)"
        case .itself: "is this router itself"
        case .duplicate(let router): "router \(router) is followed at another address"
        case .silent: "nothing was heard for too long"
        case .tooMany(let what): "too many \(what)"
        case .connection(let problem): problem
        }
    }
}
