import CHashing

/// How llm-d's indexer computes request keys (`hashAlgorithm` in its configuration).
public enum RequestKeyAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// XXH64 of the parent, the tokens and the extra keys.
    case xxh64
    /// FNV-1a of 64 bits of their canonical CBOR; llm-d's default.
    case cborFNV = "cbor-fnv"

    var cValue: ch_request_algorithm {
        switch self {
        case .xxh64: CH_REQUEST_XXH64
        case .cborFNV: CH_REQUEST_CBOR_FNV
        }
    }
}

/// Computes llm-d's request keys: the index's own names of blocks, 64 bits each, independent of
/// how an engine hashes.
public struct RequestKeyHasher: Hashable, Sendable {
    /// The algorithm.
    public let algorithm: RequestKeyAlgorithm
    /// Tokens per block.
    public let blockSize: Int
    /// The parent of a first block, which depends on seed and model.
    public let root: UInt64

    /// Makes a hasher for one model; `model` is the name of the LoRA adapter where one is used,
    /// `seed` the `hashSeed` of llm-d's configuration.
    public init(
        algorithm: RequestKeyAlgorithm, seed: String = "", model: String, blockSize: Int
    ) throws(HashingError) {
        try HashingError.check(blockSize: blockSize)
        self.algorithm = algorithm
        self.blockSize = blockSize
        root = ch_request_root(
            algorithm.cValue, seed, seed.utf8.count, model, model.utf8.count)
    }

    /// Encodes the extra keys of a block: the hashes of the multimodal items that overlap it, in
    /// their order, then in a first block the cache salt.
    public func extraKeys(_ keys: [String]) -> RequestExtraKeys {
        RequestExtraKeys(keys, for: algorithm)
    }

    /// The keys of all full blocks of a prompt without extra keys.
    public func keys(of tokens: Span<UInt32>) -> [UInt64] {
        var chain = chain()
        return chain.append(tokens)
    }

    /// The keys of all full blocks of a prompt; `extraKeys` is asked for those of each block, by
    /// its index.
    public func keys(
        of tokens: Span<UInt32>, extraKeys: (_ block: Int) -> RequestExtraKeys
    ) -> [UInt64] {
        var chain = chain()
        let blockCount = tokens.count / blockSize
        return Array(capacity: blockCount) { keys in
            for block in 0..<blockCount {
                let start = block * blockSize
                chain.append(
                    tokens.extracting(start..<start + blockSize), extraKeys: extraKeys(block),
                    to: &keys)
            }
        }
    }

    /// A chain that goes on after the block `parent`, or starts at a first block.
    public func chain(after parent: UInt64? = nil) -> RequestKeyChain {
        RequestKeyChain(algorithm: algorithm, parent: parent ?? root, blockSize: blockSize)
    }
}

/// A sequence of tokens that grows: takes tokens as they come and gives the request key of each
/// block that they fill. A value of some 100 bytes that allocates nothing.
public struct RequestKeyChain: Sendable {
    private var chain = ch_request_chain()

    fileprivate init(algorithm: RequestKeyAlgorithm, parent: UInt64, blockSize: Int) {
        let status = ch_request_chain_init(&chain, algorithm.cValue, parent, blockSize)
        precondition(status == CH_OK, "a hasher has checked its block size")
    }

    /// The number of blocks that `tokenCount` further tokens would fill.
    public func blocksFilled(byTokens tokenCount: Int) -> Int {
        (Int(chain.open_tokens) + tokenCount) / Int(chain.block_size)
    }

    /// Adds tokens and the keys of the blocks that they fill, for which `keys` must have room.
    /// `extraKeys` are those of each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: RequestExtraKeys = .none,
        to keys: inout OutputSpan<UInt64>
    ) {
        precondition(
            blocksFilled(byTokens: tokens.count) <= keys.freeCapacity, "no room for the keys")
        keys.withUnsafeMutableBufferPointer { buffer, initializedCount in
            let output = buffer.baseAddress.map { $0 + initializedCount }
            initializedCount += extraKeys.encoded.withExtra { extra, extraCount in
                tokens.withUnsafeBufferPointer {
                    ch_request_chain_update(
                        &chain, $0.baseAddress, $0.count, extra, extraCount, output)
                }
            }
        }
    }

    /// Adds tokens and returns the keys of the blocks that they fill. `extraKeys` are those of
    /// each of these blocks.
    public mutating func append(
        _ tokens: Span<UInt32>, extraKeys: RequestExtraKeys = .none
    ) -> [UInt64] {
        Array(capacity: blocksFilled(byTokens: tokens.count)) {
            append(tokens, extraKeys: extraKeys, to: &$0)
        }
    }
}
