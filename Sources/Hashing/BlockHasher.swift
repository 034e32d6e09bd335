import CHashing

/// Computes block hashes of 32 bytes, equal to those of an engine with the same settings: vLLM's
/// `sha256_cbor` or `sha256`, or SGLang's page hashes.
public typealias BlockHasher = PrefixHasher<BlockHash>

/// Computes block hashes of 16 bytes, equal to those of an engine with the same settings: vLLM's
/// `xxhash_cbor` or `xxhash`.
public typealias ShortBlockHasher = PrefixHasher<ShortBlockHash>

/// A growing sequence of tokens and its block hashes.
public typealias BlockHashChain = PrefixChain<BlockHash>

/// vLLM's hashes of 32 bytes (`--prefix-caching-hash-algo`).
public enum BlockHashAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// SHA-256 of canonical CBOR.
    case sha256CBOR = "sha256_cbor"
    /// SHA-256 of a pickle, vLLM's default. Blocks have at most 4096 tokens.
    case sha256

    var cValue: ch_algorithm {
        switch self {
        case .sha256CBOR: CH_SHA256_CBOR
        case .sha256: CH_SHA256
        }
    }
}

/// vLLM's hashes of 16 bytes (`--prefix-caching-hash-algo`).
public enum ShortBlockHashAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// XXH3-128 of canonical CBOR.
    case xxhashCBOR = "xxhash_cbor"
    /// XXH3-128 of a pickle. Blocks have at most 4096 tokens.
    case xxhash

    var cValue: ch_algorithm {
        switch self {
        case .xxhashCBOR: CH_XXHASH_CBOR
        case .xxhash: CH_XXHASH
        }
    }
}

extension PrefixHasher where Key == BlockHash {
    /// The seed of an engine (vLLM 0.33 or later) that runs without `PYTHONHASHSEED`.
    public static var defaultSeed: String { "vllm-none-hash" }

    /// Makes a hasher like that of a vLLM whose `PYTHONHASHSEED` is `seed`.
    public init(
        algorithm: BlockHashAlgorithm = .sha256CBOR, seed: String = defaultSeed, blockSize: Int
    ) throws(HashingError) {
        try self.init(
            algorithm: algorithm.cValue, firstParent: Self.root(algorithm.cValue, seed: seed),
            blockSize: blockSize)
    }

    /// Makes a hasher like that of an SGLang, for requests with this cache salt or without one.
    public init(sglangCacheSalt salt: String?, blockSize: Int) throws(HashingError) {
        try self.init(
            algorithm: CH_SGLANG, firstParent: salt.map { Self.root(CH_SGLANG, seed: $0) },
            blockSize: blockSize)
    }

    /// The parent of a first block, vLLM's `NONE_HASH`; nil for SGLang without cache salt.
    public var noneHash: BlockHash? { firstParent }
}

extension PrefixHasher where Key == ShortBlockHash {
    /// Makes a hasher like that of a vLLM whose `PYTHONHASHSEED` is `seed`; without one, these
    /// hashes differ from one start of the engine to the next.
    public init(
        algorithm: ShortBlockHashAlgorithm, seed: String, blockSize: Int
    ) throws(HashingError) {
        try self.init(
            algorithm: algorithm.cValue, firstParent: Self.root(algorithm.cValue, seed: seed),
            blockSize: blockSize)
    }

    /// The parent of a first block, vLLM's `NONE_HASH`.
    public var noneHash: ShortBlockHash? { firstParent }
}

extension PrefixHasher where Key: BlockDigest {
    /// The hashes of all full blocks of a prompt without extra keys.
    public func hashes(of tokens: Span<UInt32>) -> [Key] {
        values(of: tokens)
    }

    /// The hashes of all full blocks of a prompt; `extraKeys` is asked for those of each block, by
    /// its index.
    public func hashes(
        of tokens: Span<UInt32>, extraKeys: (_ block: Int) -> BlockExtraKeys
    ) -> [Key] {
        values(of: tokens, extraKeys: extraKeys)
    }

    /// The hashes of all full blocks of several prompts without extra keys, which lie in `tokens`
    /// at `prompts`: those of the first prompt, then those of the second, and so on. Two prompts at
    /// once cost little more than one where the kernel interleaves chains.
    public func hashes(of tokens: Span<UInt32>, prompts: [Range<Int>]) -> [Key] {
        values(of: tokens, prompts: prompts)
    }

    /// Encodes the extra keys of a block, in any order, as the vLLM release writes them.
    /// `lookahead`: the tokens behind the block that the key of a speculating engine covers.
    ///
    /// - Throws: ``HashingError/extraKeys(_:)`` for a kind that the release does not know, and for
    ///   a pickle that depends on more than these values.
    public func extraKeys(
        _ keys: [BlockExtraKey], release: VLLMRelease = .v0_33, lookahead: [UInt32] = []
    ) throws(HashingError) -> BlockExtraKeys {
        try BlockExtraKeys(
            keys, algorithm: algorithm, style: release.style, lookahead: lookahead)
    }
}
