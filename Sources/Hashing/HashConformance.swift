public import Core
public import Foundation

/// Checks this implementation against files of hash vectors; `Tests/Vectors/README.md` describes
/// their format.
public enum HashConformance {
    /// Checks all cases of a vector file.
    public static func check(_ file: Data) throws(VectorFileError) -> [ConformanceResult] {
        let vectors = try HashVectors(json: file)
        var results: [ConformanceResult] = []
        func add(_ name: String, _ check: () throws -> String?) {
            results.append(ConformanceResult(name: name, check: check))
        }
        for (seed, digests) in (vectors.none_hash ?? [:]).sorted(by: { $0.key < $1.key }) {
            for (algorithm, digest) in digests.sorted(by: { $0.key < $1.key }) {
                add("none_hash \(algorithm)|seed=\(seed)") {
                    try checkRoot(algorithm, seed: seed, digest.hash_hex)
                }
            }
        }
        for vector in vectors.cases ?? [] {
            for (release, perKey) in vector.results.sorted(by: { $0.key < $1.key }) {
                for (key, expected) in perKey.sorted(by: { $0.key < $1.key }) {
                    add("\(vector.name) \(release) \(key)") {
                        try check(vector, release: release, key: key, expected)
                    }
                }
            }
        }
        for vector in vectors.llm_d_request_keys?.cases ?? [] {
            for algorithm in RequestKeyAlgorithm.allCases {
                add("\(vector.name) \(algorithm.rawValue)") { try check(vector, algorithm) }
            }
        }
        for vector in vectors.sglang?.cases ?? [] {
            add(vector.name) { try check(vector) }
        }
        for vector in vectors.approximate_prefix?.cases ?? [] {
            add(vector.name) { try check(vector) }
        }
        for (index, vector) in (vectors.vectors ?? []).enumerated() {
            add("\(index) \(vector.label)") { try check(vector, of: vectors) }
        }
        guard !results.isEmpty else { throw VectorFileError("it has no hash vectors") }
        return results
    }

    // MARK: - vLLM

    private static func checkRoot(
        _ algorithm: String, seed: String, _ expected: String
    ) throws -> String? {
        if let algorithm = BlockHashAlgorithm(rawValue: algorithm) {
            let hasher = try BlockHasher(algorithm: algorithm, seed: seed, blockSize: 16)
            return difference("NONE_HASH", hasher.noneHash?.description, expected)
        }
        guard let algorithm = ShortBlockHashAlgorithm(rawValue: algorithm) else {
            return "no algorithm '\(algorithm)'"
        }
        let hasher = try ShortBlockHasher(algorithm: algorithm, seed: seed, blockSize: 16)
        return difference("NONE_HASH", hasher.noneHash?.description, expected)
    }

    private static func check(
        _ vector: HashVectors.BlockCase, release: String, key: String,
        _ expected: HashVectors.BlockResult
    ) throws -> String? {
        guard let release = VLLMRelease(rawValue: release) else { return "no such release" }
        let parts = key.components(separatedBy: "|seed=")
        guard parts.count == 2 else { return "not ALGORITHM|seed=SEED" }
        if let algorithm = BlockHashAlgorithm(rawValue: parts[0]) {
            return try check(
                vector, release, expected,
                BlockHasher(algorithm: algorithm, seed: parts[1], blockSize: vector.block_size))
        }
        guard let algorithm = ShortBlockHashAlgorithm(rawValue: parts[0]) else {
            return "no algorithm '\(parts[0])'"
        }
        return try check(
            vector, release, expected,
            ShortBlockHasher(algorithm: algorithm, seed: parts[1], blockSize: vector.block_size))
    }

    private static func check<Key: BlockDigest>(
        _ vector: HashVectors.BlockCase, _ release: VLLMRelease,
        _ expected: HashVectors.BlockResult, _ hasher: PrefixHasher<Key>
    ) throws -> String? {
        let noneHash = hasher.firstParent?.description
        if let failure = difference("NONE_HASH", noneHash, expected.none_hash_hex) {
            return failure
        }
        let extras = try vector.extras
        let ahead = vector.lookahead ?? 0
        let blockCount = max(vector.tokens.count - ahead, 0) / vector.block_size
        let extraKeys = try (0..<blockCount).map { block in
            let start = block * vector.block_size
            let end = start + vector.block_size
            return try hasher.extraKeys(
                extras.keys(of: start..<end + ahead, release: release), release: release,
                lookahead: Array(vector.tokens[end..<end + ahead]))
        }
        let tokens = Array(vector.tokens.prefix(blockCount * vector.block_size))
        let hashes = hasher.hashes(of: tokens.span) { extraKeys[$0] }
        if let failure = difference("blocks", hashes.count, expected.blocks.count) {
            return failure
        }
        for (index, (hash, block)) in zip(hashes, expected.blocks).enumerated() {
            let failure =
                difference("hash of block \(index)", hash.description, block.hash_hex)
                ?? difference("event value of block \(index)", hash.eventValue, block.event_int_u64)
            if let failure { return failure }
        }
        return nil
    }

    /// A block that an engine published.
    private static func check(
        _ vector: HashVectors.CapturedBlock, of vectors: HashVectors
    ) throws -> String? {
        guard vectors.algo == BlockHashAlgorithm.sha256CBOR.rawValue else {
            return "no algorithm '\(vectors.algo ?? "")'"
        }
        guard let parent = BlockHash(try [UInt8](hex: vector.parent_sha256_hex)) else {
            return "the parent has not 32 bytes"
        }
        let hasher = try BlockHasher(
            seed: vectors.PYTHONHASHSEED ?? BlockHasher.defaultSeed,
            blockSize: vector.token_ids.count)
        if vector.block_index == 0,
            let failure = difference("NONE_HASH", hasher.noneHash?.description, parent.description)
        {
            return failure
        }
        var chain = hasher.chain(after: parent)
        let extraKeys = try BlockExtraKeys(vector.extraKeys)
        let hash = chain.append(vector.token_ids.span, extraKeys: extraKeys).first
        return difference("hash", hash?.description, vector.sha256_hex)
            ?? difference("event value", hash?.eventValue, vector.event_block_hash_u64)
    }

    // MARK: - llm-d and SGLang

    private static func check(
        _ vector: HashVectors.RequestCase, _ algorithm: RequestKeyAlgorithm
    ) throws -> String? {
        let expected = algorithm == .xxh64 ? vector.xxh64 : vector.cborFNV
        let hasher = try RequestKeyHasher(
            algorithm: algorithm, seed: vector.hash_seed, model: vector.model_or_lora,
            blockSize: vector.block_size)
        let keys = hasher.keys(of: vector.tokens.span) { block in
            hasher.extraKeys(vector.mm_hashes_per_block?[block] ?? [])
        }
        return difference("root", hasher.root, expected.model_init)
            ?? difference("keys", keys, expected.blocks.map(\.key_u64))
    }

    private static func check(_ vector: HashVectors.PageCase) throws -> String? {
        let hasher = try BlockHasher(
            sglangCacheSalt: vector.cache_salt, blockSize: vector.page_size)
        let hashes = hasher.hashes(of: vector.tokens.span)
        return difference("hashes", hashes.map(\.description), vector.blocks.map(\.hash_hex))
            ?? difference(
                "event values", hashes.map(\.sglangEventValue), vector.blocks.map(\.event_int_i64))
    }

    private static func check(_ vector: HashVectors.ApproximateCase) throws -> String? {
        var prefix = try ApproximatePrefix(blockSize: vector.block_size)
        prefix.append(vector.tokens.span)
        let keys = prefix.keys(model: vector.model, cacheSalt: vector.cache_salt)
        return difference("keys", keys, vector.keys_u64)
    }

    private static func difference<Value: Equatable>(
        _ what: String, _ ours: Value?, _ expected: Value
    ) -> String? {
        ConformanceResult.difference(what, ours, expected)
    }
}
