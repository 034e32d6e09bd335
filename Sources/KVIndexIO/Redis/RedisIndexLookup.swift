public import RedisClient

/// Asks Redis itself who holds the blocks of a prompt, for a service that keeps no replica.
public struct RedisIndexLookup: Sendable {
    private let layout: RedisIndexLayout

    /// In the index of a namespace; see ``RedisIndexBackend/Configuration/namespace``.
    public init(namespace: String = "default") {
        layout = RedisIndexLayout(namespace: namespace)
    }

    /// Adds the question to a pipeline, as two commands.
    ///
    /// - Parameter keys: the request keys of the prompt's full blocks, in order; not empty.
    public func append(_ keys: [UInt64], to pipeline: inout RedisPipeline) {
        layout.lookup(keys, in: &pipeline)
    }

    /// How many of the blocks each endpoint holds, in any tier and without a gap from the first on.
    /// Endpoints that do not hold the first one are left out.
    ///
    /// - Parameter first: which of the replies is that of the question's first command.
    public func matches(in replies: RedisReplies, from first: Int = 0) throws(RedisError)
        -> [String: Int]
    {
        for index in first...(first + 1) {
            if let error = replies[index].error { throw .server(error) }
        }
        return RedisIndexLayout.matches(numbers: replies[first], blocks: replies[first + 1])
    }
}
