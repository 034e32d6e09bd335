import CHashing

/// Computes the keys of the full blocks of token sequences by one algorithm, with one root and one
/// block size: ``BlockHasher``, ``ShortBlockHasher`` and ``RequestKeyHasher``.
public struct PrefixHasher<Key: BlockKey>: Hashable, Sendable {
    /// Tokens per block.
    public let blockSize: Int

    let algorithm: ch_algorithm
    /// The parent of a first block; nil for SGLang without cache salt.
    let firstParent: Key?

    init(algorithm: ch_algorithm, firstParent: Key?, blockSize: Int) throws(HashingError) {
        self.algorithm = algorithm
        self.firstParent = firstParent
        self.blockSize = blockSize
        let chain = PrefixChain(algorithm: algorithm, parent: firstParent, blockSize: blockSize)
        guard chain != nil else { throw .blockSize(blockSize) }
    }

    /// The parent of a first block.
    static func root(_ algorithm: ch_algorithm, seed: String = "", model: String = "") -> Key {
        precondition(ch_key_bytes(algorithm) == MemoryLayout<Key>.size)
        return withUnsafeTemporaryAllocation(of: Key.self, capacity: 1) { key in
            withBytes(of: seed) { seed in
                withBytes(of: model) { model in
                    ch_root(algorithm, seed, model, key.baseAddress)
                }
            }
            return key[0]
        }
    }

    /// A chain that goes on after the block `parent`, or starts at a first block.
    public func chain(after parent: Key? = nil) -> PrefixChain<Key> {
        let parent = parent ?? firstParent
        guard
            let chain = PrefixChain(algorithm: algorithm, parent: parent, blockSize: blockSize)
        else { preconditionFailure("the block size was checked") }
        return chain
    }

    /// The keys of all full blocks of a prompt without extra keys.
    func values(of tokens: Span<UInt32>) -> [Key] {
        Array(capacity: tokens.count / blockSize) { keys in
            var chain = chain()
            // Without the tokens that fill no block, which a chain would keep.
            chain.append(tokens.extracting(first: tokens.count / blockSize * blockSize), to: &keys)
        }
    }

    /// The keys of all full blocks of a prompt; `extraKeys` is asked for those of each block.
    func values(
        of tokens: Span<UInt32>, extraKeys: (_ block: Int) -> BlockExtraKeys
    ) -> [Key] {
        let blockCount = tokens.count / blockSize
        return Array(capacity: blockCount) { keys in
            var chain = chain()
            var start = 0
            // Blocks in a row with the same extra keys go together: most prompts are two runs.
            var next = blockCount > 0 ? extraKeys(0) : .none
            while start < blockCount {
                let current = next
                var end = start + 1
                while end < blockCount {
                    next = extraKeys(end)
                    guard next == current else { break }
                    end += 1
                }
                let run = tokens.extracting(start * blockSize..<end * blockSize)
                chain.append(run, extraKeys: current, to: &keys)
                start = end
            }
        }
    }

    /// The keys of all full blocks of several prompts without extra keys, which lie in `tokens` at
    /// `prompts`: those of the first prompt, then those of the second, and so on. Two prompts at
    /// once cost little more than one where the kernel interleaves chains.
    func values(of tokens: Span<UInt32>, prompts: [Range<Int>]) -> [Key] {
        let blockCounts = prompts.map { $0.count / blockSize }
        return Array(capacity: blockCounts.reduce(0, +)) { keys in
            keys.withUnsafeMutableBufferPointer { room, count in
                var chains = prompts.map { _ in chain().chain }
                chains.withUnsafeMutableBufferPointer { chains in
                    tokens.withUnsafeBufferPointer { tokens in
                        var jobs: [ch_job] = []
                        for (index, prompt) in prompts.enumerated() {
                            let prompt = tokens[prompt]
                            var job = ch_job()
                            job.chain = chains.baseAddress.map { $0 + index }
                            job.tokens = UnsafeBufferPointer(rebasing: prompt).baseAddress
                            job.token_count = prompt.count
                            job.keys_p = UnsafeMutableRawPointer(
                                room.baseAddress.map { $0 + count })
                            jobs.append(job)
                            count += blockCounts[index]
                        }
                        ch_hash(jobs, jobs.count)
                    }
                }
            }
        }
    }
}

/// Calls `body` with the UTF-8 of a text, as the C core takes it.
func withBytes<Result>(of text: String, _ body: (ch_bytes) -> Result) -> Result {
    var text = text
    return text.withUTF8 { body(ch_bytes(bytes: $0.baseAddress, count: $0.count)) }
}
