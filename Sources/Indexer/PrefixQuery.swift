public import Scan

/// The body of `POST /query`: how much of these tokens does each instance hold?
public struct PrefixQuery: Equatable, Sendable {
    private static let fields: Set<String> = [
        "block_size", "cache_salt", "instance_id", "lora_name", "model", "tenant_id", "token_ids",
    ]

    /// The name that requests give the model.
    public var model: String
    /// The adapter, whose name takes the model's place in the keys.
    public var adapter: String?
    /// The prompt.
    public var tokens: [UInt32]
    /// Keeps blocks of different users apart; part of the first block's key.
    public var cacheSalt: String?
    /// Whose engines are asked about.
    public var tenant: String
    /// The only instance that is asked about; nil: all.
    public var instance: String?

    /// Reads a body for an index of this block size.
    public init(_ document: JSONDocument, blockSize: Int) throws(IndexerError) {
        let body = try BodyReader(document, fields: Self.fields)
        model = try body.string("model")
        try body.checkBlockSize(blockSize)
        tokens = try body.tokenIDs("token_ids")
        adapter = try body.optionalString("lora_name")
        cacheSalt = try body.optionalString("cache_salt")
        tenant = try body.tenant()
        instance = try body.optionalString("instance_id")
    }
}

/// What an instance holds of a query's tokens, each figure the best of its data-parallel ranks.
public struct InstanceMatch: Equatable, Sendable {
    /// One rank: how many tokens from the first on lie in GPU memory.
    public struct Rank: Equatable, Sendable {
        /// From 0 on.
        public var rank: Int
        /// Whole blocks only.
        public var gpuTokens: Int
    }

    /// The instance's name.
    public var instance: String
    /// Its ranks in their order.
    public var ranks: [Rank] = []
    /// Tokens of the prefix that lie in GPU memory.
    public var gpuTokens = 0
    /// Tokens of the prefix that lie in memory of either kind.
    public var cpuTokens = 0
    /// All tokens of the prefix, wherever they lie.
    public var tokens = 0
}

extension JSONWriter {
    /// Writes the answer to a query, in the form of Mooncake's conductor.
    mutating func answer(_ matches: [InstanceMatch]) {
        beginObject()
        key("instances")
        beginObject()
        for match in matches {
            key(match.instance)
            beginObject()
            member("longest_matched", match.tokens)
            key("dp")
            beginObject()
            for rank in match.ranks { member("\(rank.rank)", rank.gpuTokens) }
            endObject()
            member("gpu", match.gpuTokens)
            member("cpu", match.cpuTokens)
            member("disk", match.tokens)
            endObject()
        }
        endObject()
        endObject()
    }
}
