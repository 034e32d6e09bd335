public import Core
public import Scan

/// The body of `POST /register`: an engine whose KV events are to be followed.
public struct EngineRegistration: Equatable, Sendable {
    private static let fields: Set<String> = [
        "additionalsalt", "block_size", "cache_group", "dp_rank", "endpoint", "hash_profile",
        "instance_id", "lora_name", "modelname", "replay_endpoint", "tenant_id", "type",
    ]
    /// Publishers whose events the index reads.
    private static let types = ["vLLM", "SGLang"]

    /// The name that answers give the engine.
    public var instance: String
    /// Which of the instance's data-parallel ranks it is.
    public var rank: Int
    /// Whose engine it is.
    public var tenant: String
    /// What the events concern whose topic names no model.
    public var model: String
    /// Where the engine publishes.
    public var events: SocketAddress
    /// Where it replays what was missed.
    public var replayEndpoint: String?

    /// Reads a body for an index of this block size.
    ///
    /// The index makes keys of its own from the tokens in the events, so `hash_profile` is not
    /// looked into. Events name their adapters, so `lora_name` is not needed.
    public init(_ document: JSONDocument, blockSize: Int) throws(IndexerError) {
        let body = try BodyReader(document, fields: Self.fields)
        instance = try body.string("instance_id")
        rank = try body.optionalInteger("dp_rank", in: 0...Int(Int32.max)) ?? 0
        tenant = try body.tenant()
        model = try body.string("modelname")
        events = try Self.address(try body.string("endpoint"), "endpoint")
        replayEndpoint = try body.optionalString("replay_endpoint")
        if let replayEndpoint { _ = try Self.address(replayEndpoint, "replay_endpoint") }
        try body.checkBlockSize(blockSize)
        if let type = try body.optionalString("type"), !Self.types.contains(type) {
            throw IndexerError(
                .unsupported, "type is '\(type)'; the events of vLLM and SGLang can be read",
                field: "type")
        }
        if try body.optionalString("additionalsalt") != nil {
            throw IndexerError(
                .unsupported, "keys cannot be salted by registration; use cache_salt",
                field: "additionalsalt")
        }
        _ = try body.optionalInteger("cache_group", in: 0...0)
        _ = try body.optionalString("lora_name")
        try body.ignoreObject("hash_profile")
    }

    /// The engine as discovery would have found it.
    var server: ModelServer {
        ModelServer(
            name: IndexedEngine.name(of: instance, rank: rank), address: events,
            eventsEndpoint: "tcp://\(events)", replayEndpoint: replayEndpoint, eventsModel: model)
    }

    private static func address(
        _ text: String, _ field: String
    ) throws(IndexerError) -> SocketAddress {
        guard text.hasPrefix("tcp://"),
            let address = try? SocketAddress(parsing: String(text.dropFirst(6))),
            address.port != 0, address.host != "*"
        else {
            throw IndexerError(
                .invalidValue, "\(field) must be like tcp://host:port, not '\(text)'",
                field: field)
        }
        return address
    }
}

/// The body of `POST /unregister`.
public struct EngineUnregistration: Equatable, Sendable {
    /// Beside those that count, what clients send that repeat their registration.
    private static let fields: Set<String> = [
        "block_size", "dp_rank", "instance_id", "lora_name", "modelname", "tenant_id", "type",
    ]

    /// The engine's name.
    public var instance: String
    /// One of its ranks; nil: all.
    public var rank: Int?
    /// Whose engine it is.
    public var tenant: String

    /// Reads a body.
    public init(_ document: JSONDocument) throws(IndexerError) {
        let body = try BodyReader(document, fields: Self.fields)
        instance = try body.string("instance_id")
        rank = try body.optionalInteger("dp_rank", in: 0...Int(Int32.max))
        tenant = try body.tenant()
    }
}
