import CTransfer

/// Why a transfer, a connect or another call did not succeed.
public enum TransferError: Error, Hashable, Sendable, CaseIterable {
    /// A parameter is not valid: a host that is not numeric, lists of different lengths.
    case invalidArgument
    /// Memory or another resource of the system ran out.
    case outOfMemory
    /// A queue is full. Drain and try again.
    case queueFull
    /// The peer has no such region.
    case noSuchRegion
    /// A block lies outside its region.
    case outOfRange
    /// The engine or the region is another one, for the peer restarted or reallocated, or the peer
    /// took a block back.
    case stale
    /// The peer cannot be reached.
    case unreachable
    /// The peer closed its connection or stopped answering.
    case peerDead
    /// The deadline passed.
    case deadlineExceeded
    /// Cancelled by the caller.
    case cancelled
    /// No path to the peer is both allowed and possible.
    case pathForbidden
    /// The system does not permit it.
    case notPermitted
    /// The peer speaks another version of the protocol.
    case versionMismatch
    /// The peer sent a frame that is not valid.
    case protocolViolation
    /// The listening address is in use or not of this machine.
    case addressUnavailable
    /// A region's memory is not mapped, or of a kind that the path cannot reach.
    case memoryFault

    private var status: ct_status {
        let name =
            switch self {
            case .invalidArgument: CT_EINVAL
            case .outOfMemory: CT_ENOMEM
            case .queueFull: CT_EAGAIN
            case .noSuchRegion: CT_ENOTFOUND
            case .outOfRange: CT_ERANGE
            case .stale: CT_ESTALE
            case .unreachable: CT_EUNREACH
            case .peerDead: CT_EPEERDEAD
            case .deadlineExceeded: CT_ETIMEDOUT
            case .cancelled: CT_ECANCELED
            case .pathForbidden: CT_EPOLICY
            case .notPermitted: CT_EPERM
            case .versionMismatch: CT_EVERSION
            case .protocolViolation: CT_EPROTOCOL
            case .addressUnavailable: CT_EADDRESS
            case .memoryFault: CT_EFAULT
            }
        return ct_status(name)
    }

    /// Nil for success.
    init?(status: ct_status) {
        guard status != CT_OK else { return nil }
        guard let error = Self.allCases.first(where: { $0.status == status }) else {
            preconditionFailure("CTransfer returned status \(status), which has no Swift case")
        }
        self = error
    }

    static func check(_ status: ct_status) throws(TransferError) {
        if let error = TransferError(status: status) { throw error }
    }
}

extension TransferError: CustomStringConvertible {
    /// One clause for people.
    public var description: String { String(cString: ct_status_message(status)) }
}
