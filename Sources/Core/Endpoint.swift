/// A model server as a hot path sees it: what does not change while it is in a pool, worked out
/// once. Compare by identity or ``id``.
public final class Endpoint: Sendable {
    /// What discovery said.
    public let server: ModelServer
    /// Unique in its pool and never used again there.
    public let id: UInt32
    /// The server's address as text.
    public let address: String
    /// Whether it may compute prompts for another. An unlabelled server may not.
    public let takesPrefill: Bool
    /// Whether it may encode media for others. An unlabelled server may not.
    public let takesEncode: Bool
    /// Whether it generates tokens. An unlabelled server does.
    public let takesDecode: Bool

    /// Makes an endpoint of a server.
    public init(_ server: ModelServer, id: UInt32) {
        self.server = server
        self.id = id
        address = server.address.description
        if let label = server.labels[ServerRole.label] {
            let role = ServerRole(rawValue: label)
            takesPrefill = role?.takesPrefill ?? false
            takesEncode = role?.takesEncode ?? false
            takesDecode = role?.takesDecode ?? false
        } else {
            takesPrefill = false
            takesEncode = false
            takesDecode = true
        }
    }
}
