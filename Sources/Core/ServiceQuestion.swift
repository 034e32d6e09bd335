/// A POST request, in JSON, to a service that a plugin goes by.
public struct ServiceQuestion: Sendable {
    /// Servers that can answer; the first that can be connected to is asked.
    public var servers: [SocketAddress]
    /// The path of the request.
    public var path: String
    /// Its body.
    public var body: [UInt8]
    /// How long to wait for the answer.
    public var timeout: Duration
    /// The longest answer to accept.
    public var maximumAnswerBytes: Int

    /// Makes a question.
    public init(
        servers: [SocketAddress], path: String, body: [UInt8], timeout: Duration,
        maximumAnswerBytes: Int
    ) {
        self.servers = servers
        self.path = path
        self.body = body
        self.timeout = timeout
        self.maximumAnswerBytes = maximumAnswerBytes
    }
}

/// What became of a question to a service.
public enum ServiceOutcome: Sendable {
    /// The service answered.
    case answered(status: Int, body: [UInt8])
    /// It could not be reached or did not answer in time.
    case failed
    /// Nobody waits for the answer any more.
    case abandoned
}
