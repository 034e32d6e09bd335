import CZeroMQ

/// Why a messaging call failed.
public enum MessagingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The endpoint is not one that ZMQ understands, or its host or device does not exist.
    case invalidEndpoint(String, reason: String)
    /// Another socket is bound to the endpoint.
    case addressInUse(String)
    /// A system limit was hit, such as the number of open files.
    case system(operation: String, reason: String)
    /// No reply came from the replay endpoint for the given time.
    case replayTimedOut(endpoint: String, seconds: Double)
    /// A reply of the replay endpoint had neither of the known framings.
    case malformedReply(endpoint: String, frameCount: Int)

    /// One line for people.
    public var description: String {
        switch self {
        case .invalidEndpoint(let endpoint, let reason): "ZMQ endpoint '\(endpoint)': \(reason)"
        case .addressInUse(let endpoint): "ZMQ endpoint '\(endpoint)' is already in use"
        case .system(let operation, let reason): "ZMQ cannot \(operation): \(reason)"
        case .replayTimedOut(let endpoint, let seconds):
            "no reply from replay endpoint '\(endpoint)' for \(seconds) s"
        case .malformedReply(let endpoint, let frameCount):
            "replay endpoint '\(endpoint)' sent a reply of \(frameCount) frames in no known form"
        }
    }

    /// What `zmq_errno` says about `operation` now; `endpoint` names what it was about.
    static func last(_ operation: String, endpoint: String? = nil) -> MessagingError {
        let code = zmq_errno()
        let reason = String(cString: zmq_strerror(code))
        guard let endpoint else { return .system(operation: operation, reason: reason) }
        switch code {
        case EADDRINUSE: return .addressInUse(endpoint)
        case EINVAL, EPROTONOSUPPORT, ENOCOMPATPROTO, ENODEV, EADDRNOTAVAIL:
            return .invalidEndpoint(endpoint, reason: reason)
        default: return .system(operation: "\(operation) '\(endpoint)'", reason: reason)
        }
    }
}
