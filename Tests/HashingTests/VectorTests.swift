import Hashing
import Testing

/// The published vectors, with every kernel that this CPU runs, and the kernels against each other.
/// Serialized, because a kernel is chosen for the whole process.
@Suite(.serialized) struct VectorTests {
    static let kernels: [String] = ["portable", "sha-ni"].filter { HashKernel.select($0) }
    let vectors: HashVectors

    init() throws {
        vectors = try loadFixture("kv_hash_vectors.json")
    }

    @Test(arguments: kernels) func noneHashes(kernel: String) throws {
        #expect(HashKernel.select(kernel))
        #expect(vectors.none_hash.count == 4)
        for (seed, digests) in vectors.none_hash {
            let hasher = try BlockHasher(seed: seed, blockSize: 16)
            #expect(hasher.noneHash.description == digests["sha256_cbor"]?.hash_hex, "seed \(seed)")
        }
        let withoutSeed = try BlockHasher(blockSize: 16).noneHash.description
        #expect(withoutSeed == vectors.none_hash["vllm-none-hash"]?["sha256_cbor"]?.hash_hex)
    }

    @Test(arguments: kernels) func blockHashes(kernel: String) throws {
        #expect(HashKernel.select(kernel))
        var blockCount = 0
        for vector in vectors.cases {
            for (release, results) in vector.results {
                for (key, result) in results {
                    let parts = key.split(separator: "|seed=", maxSplits: 1)
                    guard parts[0] == "sha256_cbor" else { continue }
                    try check(vector, result, seed: String(parts[1]), "\(release) \(key)")
                    blockCount += result.blocks.count
                }
            }
        }
        #expect(blockCount == 77)
    }

    private func check(
        _ vector: HashVectors.BlockCase, _ result: HashVectors.BlockCase.Result, seed: String,
        _ name: String
    ) throws {
        let hasher = try BlockHasher(seed: seed, blockSize: vector.block_size)
        #expect(hasher.noneHash.description == result.none_hash_hex, "\(vector.name) \(name)")
        // A case with lookahead has tokens beyond its last block that fill none.
        let tokens = vector.tokens.prefix(result.blocks.count * vector.block_size)
        let hashes = hasher.hashes(of: Array(tokens).span) { block in
            result.blocks[block].extra_keys.map {
                BlockExtraKeys(canonicalCBOR: ExtraValue.array($0).canonicalCBOR)
            } ?? .none
        }
        #expect(
            hashes.map(\.description) == result.blocks.map(\.hash_hex), "\(vector.name) \(name)")
        #expect(
            hashes.map(\.eventValue) == result.blocks.map(\.event_int_u64),
            "\(vector.name) \(name)")
    }

    @Test func kernelsAgreeOnEveryMessageLength() throws {
        var generator = SeededGenerator()
        for blockSize in [1, 16, 23, 24, 64, 65, 256] {
            let hasher = try BlockHasher(blockSize: blockSize)
            let tokens = generator.tokens(2 * blockSize)
            for length in 0...130 {
                let keys = BlockExtraKeys([.cacheSalt(String(repeating: "s", count: length))])
                let results = Self.kernels.map { kernel in
                    #expect(HashKernel.select(kernel) && HashKernel.name == kernel)
                    return hasher.hashes(of: tokens.span) { _ in keys }
                }
                #expect(results[0].count == 2)
                #expect(Set(results).count == 1, "block size \(blockSize), salt of \(length) bytes")
            }
        }
        #expect(HashKernel.select(nil))
        #expect(!HashKernel.select("abacus"))
    }

    @Test func taggedExtraKeys() throws {
        var encodedCount = 0
        for vector in vectors.cases {
            for block in vector.results["v0.33"]?["sha256_cbor|seed=0"]?.blocks ?? [] {
                guard let values = block.extra_keys else { continue }
                let keys = values.compactMap(\.blockExtraKey)
                guard keys.count == values.count else { continue }  // lookahead
                let expected = BlockExtraKeys(canonicalCBOR: ExtraValue.array(values).canonicalCBOR)
                #expect(BlockExtraKeys(keys) == expected, "\(vector.name)")
                encodedCount += 1
            }
        }
        #expect(encodedCount == 9)
    }

    @Test(arguments: kernels) func hashesOfARunningEngine(kernel: String) throws {
        #expect(HashKernel.select(kernel))
        let capture: CapturedHashes = try loadFixture("vllm_block_hashes.json")
        let hasher = try BlockHasher(seed: capture.PYTHONHASHSEED, blockSize: capture.block_size)
        #expect(hasher.noneHash.description == capture.none_hash_hex)
        #expect(capture.vectors.count == 20)
        for vector in capture.vectors {
            let parent = try #require(BlockHash(hexBytes(vector.parent_sha256_hex)))
            var chain = hasher.chain(after: parent)
            let keys = BlockExtraKeys((vector.extra_keys_hashed ?? []).compactMap(\.blockExtraKey))
            let hashes = chain.append(vector.token_ids.span, extraKeys: keys)
            #expect(hashes.map(\.description) == [vector.sha256_hex], "\(vector.label)")
            #expect(hashes.map(\.eventValue) == [vector.event_block_hash_u64], "\(vector.label)")
        }
    }

    @Test(arguments: RequestKeyAlgorithm.allCases)
    func requestKeys(algorithm: RequestKeyAlgorithm) throws {
        #expect(vectors.llm_d_request_keys.cases.count == 5)
        for vector in vectors.llm_d_request_keys.cases {
            let result = algorithm == .xxh64 ? vector.xxh64 : vector.cborFNV
            let hasher = try RequestKeyHasher(
                algorithm: algorithm, seed: vector.hash_seed, model: vector.model_or_lora,
                blockSize: vector.block_size)
            #expect(hasher.root == result.model_init, "\(vector.name)")
            let keys = hasher.keys(of: vector.tokens.span) { block in
                hasher.extraKeys(vector.mm_hashes_per_block?[block] ?? [])
            }
            #expect(keys == result.blocks.map(\.key_u64), "\(vector.name)")
        }
    }
}
