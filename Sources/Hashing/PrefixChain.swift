import CHashing

/// A sequence of tokens that grows: takes tokens as they come and gives the key of each block that
/// they fill. It keeps the tokens of the open block.
public struct PrefixChain<Key: BlockKey>: Sendable {
    private(set) var chain = ch_chain()
    private var open: [UInt32] = []

    /// Nil if the algorithm has no such blocks. `parent` is nil only for a first page of SGLang's
    /// without cache salt.
    init?(algorithm: ch_algorithm, parent: Key?, blockSize: Int) {
        precondition(ch_key_bytes(algorithm) == MemoryLayout<Key>.size)
        let status =
            if let parent {
                withUnsafeBytes(of: parent) {
                    ch_chain_init(&chain, algorithm, $0.baseAddress, blockSize)
                }
            } else {
                ch_chain_init(&chain, algorithm, nil, blockSize)
            }
        guard status == CH_OK else { return nil }
    }

    private var blockSize: Int { Int(chain.block_size) }

    /// The number of blocks that `tokenCount` further tokens would fill.
    public func blocksFilled(byTokens tokenCount: Int) -> Int {
        (open.count + tokenCount) / blockSize
    }

    /// Adds tokens and the keys of the blocks that they fill, for which `keys` must have room.
    /// `extraKeys` are those of each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: BlockExtraKeys = .none,
        to keys: inout OutputSpan<Key>
    ) {
        precondition(
            blocksFilled(byTokens: tokens.count) <= keys.freeCapacity, "no room for the keys")
        var rest = tokens
        if !open.isEmpty {
            let missing = min(blockSize - open.count, tokens.count)
            open.append(rest.extracting(first: missing))
            rest = rest.extracting(droppingFirst: missing)
            guard open.count == blockSize else { return }
            var block: [UInt32] = []
            swap(&block, &open)
            hashBlocks(of: block.span, extraKeys, to: &keys)
            block.removeAll(keepingCapacity: true)
            open = block
        }
        let full = rest.count / blockSize * blockSize
        if full > 0 { hashBlocks(of: rest.extracting(first: full), extraKeys, to: &keys) }
        open.append(rest.extracting(droppingFirst: full))
    }

    /// Adds tokens and returns the keys of the blocks that they fill. `extraKeys` are those of each
    /// of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: BlockExtraKeys = .none
    ) -> [Key] {
        Array(capacity: blocksFilled(byTokens: tokens.count)) {
            append(tokens, extraKeys: extraKeys, to: &$0)
        }
    }

    /// Adds tokens and appends the keys of the blocks that they fill to `keys`. `extraKeys` are
    /// those of each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: BlockExtraKeys = .none, to keys: inout [Key]
    ) {
        keys.append(addingCapacity: blocksFilled(byTokens: tokens.count)) {
            append(tokens, extraKeys: extraKeys, to: &$0)
        }
    }

    /// Hashes whole blocks.
    private mutating func hashBlocks(
        of tokens: Span<UInt32>, _ extraKeys: BlockExtraKeys, to keys: inout OutputSpan<Key>
    ) {
        keys.withUnsafeMutableBufferPointer { buffer, initializedCount in
            let room = buffer.baseAddress.map { $0 + initializedCount }
            extraKeys.withExtra { extra in
                tokens.withUnsafeBufferPointer { tokens in
                    withUnsafeMutablePointer(to: &chain) { chain in
                        var job = ch_job()
                        job.chain = chain
                        job.tokens = tokens.baseAddress
                        job.token_count = tokens.count
                        job.extra_keys = extra
                        job.keys_p = UnsafeMutableRawPointer(room)
                        ch_hash(&job, 1)
                    }
                }
            }
            initializedCount += tokens.count / Int(chain.block_size)
        }
    }
}

extension Array where Element == UInt32 {
    fileprivate mutating func append(_ tokens: Span<UInt32>) {
        tokens.withUnsafeBufferPointer { append(contentsOf: $0) }
    }
}
