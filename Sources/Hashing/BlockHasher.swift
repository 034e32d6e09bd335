import CHashing

/// Computes vLLM's `sha256_cbor` block hashes: one for each full block of a sequence of tokens,
/// equal to those of an engine with the same seed and block size.
public struct BlockHasher: Hashable, Sendable {
    /// The seed of an engine (vLLM 0.33 or later) that runs without `PYTHONHASHSEED`.
    public static let defaultSeed = "vllm-none-hash"

    /// Tokens per block.
    public let blockSize: Int
    /// vLLM's `NONE_HASH`: the parent of a first block.
    public let noneHash: BlockHash

    /// Makes a hasher like that of an engine whose `PYTHONHASHSEED` is `seed`.
    public init(seed: String = defaultSeed, blockSize: Int) throws(HashingError) {
        try HashingError.check(blockSize: blockSize)
        self.blockSize = blockSize
        noneHash = BlockHash { ch_none_hash(seed, seed.utf8.count, $0) }
    }

    /// The hashes of all full blocks of a prompt without extra keys.
    public func hashes(of tokens: Span<UInt32>) -> [BlockHash] {
        var chain = chain()
        return chain.append(tokens)
    }

    /// The hashes of all full blocks of a prompt; `extraKeys` is asked for those of each block, by
    /// its index.
    public func hashes(
        of tokens: Span<UInt32>, extraKeys: (_ block: Int) -> BlockExtraKeys
    ) -> [BlockHash] {
        var chain = chain()
        let blockCount = tokens.count / blockSize
        return Array(capacity: blockCount) { hashes in
            for block in 0..<blockCount {
                let start = block * blockSize
                chain.append(
                    tokens.extracting(start..<start + blockSize), extraKeys: extraKeys(block),
                    to: &hashes)
            }
        }
    }

    /// A chain that goes on after the block `parent`, or starts at a first block.
    public func chain(after parent: BlockHash? = nil) -> BlockHashChain {
        BlockHashChain(parent: parent ?? noneHash, blockSize: blockSize)
    }
}

/// A sequence of tokens that grows: takes tokens as they come and gives the hash of each block
/// that they fill. A value of some 500 bytes that allocates nothing.
public struct BlockHashChain: Sendable {
    private var chain = ch_block_chain()

    fileprivate init(parent: BlockHash, blockSize: Int) {
        let status = ch_block_chain_init(&chain, parent.bytes, blockSize)
        precondition(status == CH_OK, "a hasher has checked its block size")
    }

    /// The number of blocks that `tokenCount` further tokens would fill.
    public func blocksFilled(byTokens tokenCount: Int) -> Int {
        (Int(chain.open_tokens) + tokenCount) / Int(chain.block_size)
    }

    /// Adds tokens and the hashes of the blocks that they fill, for which `hashes` must have room.
    /// `extraKeys` are those of each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: BlockExtraKeys = .none,
        to hashes: inout OutputSpan<BlockHash>
    ) {
        precondition(
            blocksFilled(byTokens: tokens.count) <= hashes.freeCapacity, "no room for the hashes")
        hashes.withUnsafeMutableBufferPointer { buffer, initializedCount in
            let output = buffer.baseAddress.map {
                UnsafeMutableRawPointer($0 + initializedCount).assumingMemoryBound(to: UInt8.self)
            }
            initializedCount += extraKeys.encoded.withExtra { extra, extraCount in
                tokens.withUnsafeBufferPointer {
                    ch_block_chain_update(
                        &chain, $0.baseAddress, $0.count, extra, extraCount, output)
                }
            }
        }
    }

    /// Adds tokens and returns the hashes of the blocks that they fill. `extraKeys` are those of
    /// each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: BlockExtraKeys = .none
    ) -> [BlockHash] {
        Array(capacity: blocksFilled(byTokens: tokens.count)) {
            append(tokens, extraKeys: extraKeys, to: &$0)
        }
    }
}
