internal import CNet
public import Core

/// What can go wrong on the network. The description is one line that names the cause.
public enum NetError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What was waited for when the time ran out.
    public enum Wait: String, Hashable, Sendable {
        /// A connection: its place in the pool, name, TCP and TLS together.
        case connect = "a connection"
        /// The head of a request, by a server.
        case requestHead = "a request head"
        /// The head of a response, by a client.
        case responseHead = "a response head"
        /// Progress of a body.
        case idle = "progress"
        /// The end of a whole operation with a deadline.
        case deadline = "the operation to end"
    }

    /// Another socket listens at the address.
    case addressInUse(SocketAddress)
    /// The address does not belong to this machine.
    case addressNotAvailable(SocketAddress)
    /// The system refuses the operation named by the text.
    case accessDenied(String)
    /// The file named by the text does not exist.
    case notFound(String)
    /// The process or the machine has no file descriptor left.
    case tooManyFiles
    /// The host name has no address.
    case cannotResolve(String)
    /// No connection could be made; the text tells why.
    case connectFailed(String)
    /// Time ran out.
    case timeout(Wait)
    /// The peer closed the connection before the exchange was complete.
    case closed
    /// The peer reset the connection or the stream.
    case reset
    /// The peer refused the request before it looked at it: sending it again is safe.
    case refused
    /// The TLS handshake or a record failed, or a certificate or key cannot be used.
    case tls(String)
    /// The peer broke the protocol.
    case protocolViolation(String)
    /// A header section was larger than the configured limit.
    case headersTooLarge
    /// A body was larger than the limit, given in bytes.
    case bodyTooLarge(limit: Int)
    /// More requests wait for a connection than the pool admits.
    case poolExhausted
    /// This side ended the operation: abort, cancel, drain deadline or shutdown of the loop.
    case cancelled
    /// The caller's argument cannot be used.
    case invalidArgument(String)
    /// A system call failed in a way that has no case of its own.
    case system(String)

    /// Nothing of the request left this machine: another endpoint can be tried.
    public var isConnectFailure: Bool {
        switch self {
        case .cannotResolve, .connectFailed, .timeout(.connect), .poolExhausted, .tooManyFiles:
            true
        default: false
        }
    }

    /// One line for people.
    public var description: String {
        switch self {
        case .addressInUse(let address): "\(address) is already in use"
        case .addressNotAvailable(let address): "\(address) is not an address of this machine"
        case .accessDenied(let what): "\(what): permission denied"
        case .notFound(let what): "\(what): not found"
        case .tooManyFiles: "too many open files"
        case .cannotResolve(let host): "host name '\(host)' does not resolve"
        case .connectFailed(let reason): "cannot connect: \(reason)"
        case .timeout(let wait): "timed out waiting for \(wait.rawValue)"
        case .closed: "the peer closed the connection"
        case .reset: "the peer reset the connection"
        case .refused: "the peer refused the request unprocessed"
        case .tls(let reason): "TLS: \(reason)"
        case .protocolViolation(let reason): "protocol violation: \(reason)"
        case .headersTooLarge: "header section too large"
        case .bodyTooLarge(let limit): "body larger than \(limit) bytes"
        case .poolExhausted: "too many requests wait for a connection"
        case .cancelled: "cancelled"
        case .invalidArgument(let reason): "invalid argument: \(reason)"
        case .system(let reason): reason
        }
    }
}

extension NetError {
    /// The error for a status; `subject` is what the operation was about.
    init(_ status: cn_status, detail: UnsafePointer<CChar>? = nil, subject: SocketAddress? = nil) {
        let text = String(cString: detail ?? cn_status_message(status))
        let address = subject ?? SocketAddress(host: "", port: 0)
        self =
            switch status {
            case CN_ADDRESS_IN_USE: .addressInUse(address)
            case CN_ADDRESS_NOT_AVAILABLE: .addressNotAvailable(address)
            case CN_ACCESS_DENIED: .accessDenied(subject?.description ?? text)
            case CN_NOT_FOUND: .notFound(subject?.description ?? text)
            case CN_TOO_MANY_FILES: .tooManyFiles
            case CN_RESOLVE_FAILED: .cannotResolve(subject?.host ?? text)
            case CN_CONNECT_REFUSED, CN_CONNECT_FAILED:
                .connectFailed(subject.map { "\($0): \(text)" } ?? text)
            case CN_CONNECT_TIMEOUT: .timeout(.connect)
            case CN_HEAD_TIMEOUT: .timeout(.requestHead)
            case CN_RESPONSE_TIMEOUT: .timeout(.responseHead)
            case CN_IDLE_TIMEOUT: .timeout(.idle)
            case CN_CLOSED: .closed
            case CN_RESET: .reset
            case CN_REFUSED: .refused
            case CN_TLS: .tls(text)
            case CN_PROTOCOL: .protocolViolation(text)
            case CN_HEAD_TOO_LARGE: .headersTooLarge
            case CN_CANCELLED: .cancelled
            case CN_INVALID_ARGUMENT: .invalidArgument(text)
            default: .system(text)
            }
    }
}
