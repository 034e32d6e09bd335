import CHashing

/// Computes llm-d's request keys: the index's own names of blocks, 64 bits each, independent of
/// how an engine hashes.
public typealias RequestKeyHasher = PrefixHasher<UInt64>

/// A growing sequence of tokens and its request keys.
public typealias RequestKeyChain = PrefixChain<UInt64>

/// How llm-d's indexer computes request keys (`hashAlgorithm` in its configuration).
public enum RequestKeyAlgorithm: String, CaseIterable, Hashable, Sendable {
    /// XXH64 of the parent, the tokens and the extra keys.
    case xxh64
    /// FNV-1a of 64 bits of their canonical CBOR; llm-d's default.
    case cborFNV = "cbor-fnv"

    var cValue: ch_algorithm {
        switch self {
        case .xxh64: CH_XXH64
        case .cborFNV: CH_CBOR_FNV
        }
    }
}

extension PrefixHasher where Key == UInt64 {
    /// Makes a hasher for one model; `model` is the name of the LoRA adapter where one is used,
    /// `seed` the `hashSeed` of llm-d's configuration.
    public init(
        algorithm: RequestKeyAlgorithm, seed: String = "", model: String, blockSize: Int
    ) throws(HashingError) {
        try self.init(
            algorithm: algorithm.cValue,
            firstParent: Self.root(algorithm.cValue, seed: seed, model: model),
            blockSize: blockSize)
    }

    /// The parent of a first block, which depends on seed and model.
    public var root: UInt64 {
        guard let firstParent else { preconditionFailure("request keys have a root") }
        return firstParent
    }

    /// Encodes the extra keys of a block: the hashes of the multimodal items that overlap it, in
    /// their order, then in a first block the cache salt.
    public func extraKeys(_ keys: [String]) -> BlockExtraKeys {
        let keys = keys.map { BlockExtraKey.multimodal(identifier: $0, offset: 0) }
        guard
            let encoded = try? BlockExtraKeys(
                keys, algorithm: algorithm, style: CH_STYLE_0_33, lookahead: [])
        else { preconditionFailure("request keys know such extra keys") }
        return encoded
    }

    /// The keys of all full blocks of a prompt without extra keys.
    public func keys(of tokens: Span<UInt32>) -> [UInt64] {
        values(of: tokens)
    }

    /// Replaces `keys` by those of the full blocks that follow the block `parent`. Allocates nothing
    /// where `keys` has room.
    public func hash(
        _ tokens: Span<UInt32>, after parent: UInt64, into keys: inout [UInt64]
    ) {
        let blockCount = tokens.count / blockSize
        keys.removeAll(keepingCapacity: true)
        keys.append(contentsOf: repeatElement(0, count: blockCount))
        var chain = ch_chain()
        let status = withUnsafeBytes(of: parent) {
            ch_chain_init(&chain, algorithm, $0.baseAddress, blockSize)
        }
        precondition(status == CH_OK, "the block size was checked")
        keys.withUnsafeMutableBufferPointer { keys in
            tokens.withUnsafeBufferPointer { tokens in
                withUnsafeMutablePointer(to: &chain) { chain in
                    var job = ch_job()
                    job.chain = chain
                    job.tokens = tokens.baseAddress
                    job.token_count = blockCount * blockSize
                    job.keys_p = UnsafeMutableRawPointer(keys.baseAddress)
                    ch_hash(&job, 1)
                }
            }
        }
    }

    /// The keys of all full blocks of a prompt; `extraKeys` is asked for those of each block, by
    /// its index.
    public func keys(
        of tokens: Span<UInt32>, extraKeys: (_ block: Int) -> BlockExtraKeys
    ) -> [UInt64] {
        values(of: tokens, extraKeys: extraKeys)
    }
}
