import Hashing
import Testing

/// SplitMix64. To repeat a run, pass the seed that it printed.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64 = .random(in: .min ... .max), test: String = #function) {
        state = seed
        print("\(test): seed \(seed)")
    }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var word = state
        word = (word ^ word >> 30) &* 0xbf58_476d_1ce4_e5b9
        word = (word ^ word >> 27) &* 0x94d0_49bb_1331_11eb
        return word ^ word >> 31
    }

    /// Token ids of every width in CBOR, and their edges.
    mutating func tokens(_ count: Int) -> [UInt32] {
        let bounds: [UInt32] = [23, 24, 255, 256, 65535, 65536, .max]
        return (0..<count).map { _ in
            let bound = bounds.randomElement(using: &self) ?? 0
            return Bool.random(using: &self) ? bound : .random(in: 0...bound, using: &self)
        }
    }

    /// Cuts `count` things into pieces, some empty.
    mutating func pieces(of count: Int) -> [Range<Int>] {
        var pieces: [Range<Int>] = []
        var start = 0
        while start < count {
            let end = min(count, start + Int.random(in: 0...(1 + count / 4), using: &self))
            pieces.append(start..<end)
            start = end
        }
        return pieces
    }
}

@Suite struct ChainTests {
    @Test func blockHashesOfPiecesEqualThoseOfTheWhole() throws {
        var generator = SeededGenerator()
        for round in 0..<200 {
            let hasher = try BlockHasher(blockSize: .random(in: 1...100, using: &generator))
            let tokens = generator.tokens(.random(in: 0...500, using: &generator))
            let keys =
                round % 2 == 0 ? BlockExtraKeys.none : BlockExtraKeys([.lora(name: "a", path: "/")])
            let whole = hasher.hashes(of: tokens.span) { _ in keys }
            #expect(whole.count == tokens.count / hasher.blockSize)
            if round % 2 == 0 {
                #expect(hasher.hashes(of: tokens.span) == whole)
            }
            var chain = hasher.chain()
            var hashes: [BlockHash] = []
            for piece in generator.pieces(of: tokens.count) {
                let filled = chain.blocksFilled(byTokens: piece.count)
                let new = chain.append(tokens.span.extracting(piece), extraKeys: keys)
                #expect(new.count == filled)
                hashes += new
            }
            #expect(hashes == whole, "block size \(hasher.blockSize)")
        }
    }

    @Test(arguments: RequestKeyAlgorithm.allCases)
    func requestKeysOfPiecesEqualThoseOfTheWhole(algorithm: RequestKeyAlgorithm) throws {
        var generator = SeededGenerator()
        for round in 0..<200 {
            let hasher = try RequestKeyHasher(
                algorithm: algorithm, model: "m", blockSize: .random(in: 1...100, using: &generator)
            )
            let tokens = generator.tokens(.random(in: 0...500, using: &generator))
            let extra =
                round % 2 == 0 ? BlockExtraKeys.none : hasher.extraKeys(["image", "salt"])
            let whole = hasher.keys(of: tokens.span) { _ in extra }
            #expect(whole.count == tokens.count / hasher.blockSize)
            if round % 2 == 0 {
                #expect(hasher.keys(of: tokens.span) == whole)
            }
            var chain = hasher.chain()
            var keys: [UInt64] = []
            for piece in generator.pieces(of: tokens.count) {
                let filled = chain.blocksFilled(byTokens: piece.count)
                let new = chain.append(tokens.span.extracting(piece), extraKeys: extra)
                #expect(new.count == filled)
                keys += new
            }
            #expect(keys == whole, "block size \(hasher.blockSize)")
        }
    }

    @Test func hashesOfSeveralPromptsEqualThoseOfEach() throws {
        var generator = SeededGenerator()
        for _ in 0..<100 {
            let hasher = try BlockHasher(blockSize: .random(in: 1...40, using: &generator))
            let short = try ShortBlockHasher(
                algorithm: .xxhashCBOR, seed: "0", blockSize: hasher.blockSize)
            let tokens = generator.tokens(400)
            let prompts = (0..<Int.random(in: 0...5, using: &generator)).map { _ in
                let start = Int.random(in: 0...400, using: &generator)
                return start..<Int.random(in: start...400, using: &generator)
            }
            let each = prompts.flatMap { hasher.hashes(of: tokens.span.extracting($0)) }
            #expect(hasher.hashes(of: tokens.span, prompts: prompts) == each)
            let eachShort = prompts.flatMap { short.hashes(of: tokens.span.extracting($0)) }
            #expect(short.hashes(of: tokens.span, prompts: prompts) == eachShort)
        }
    }

    @Test func extraKeysOfEachBlockAreItsOwn() throws {
        var generator = SeededGenerator()
        for _ in 0..<100 {
            let hasher = try BlockHasher(blockSize: 4)
            let tokens = generator.tokens(.random(in: 0...50, using: &generator))
            let extraKeys = (0...12).map { _ in
                [BlockExtraKeys.none, BlockExtraKeys([.cacheSalt("a")])]
                    .randomElement(using: &generator) ?? .none
            }
            var chain = hasher.chain()
            let oneByOne = (0..<tokens.count / 4).flatMap { block in
                chain.append(
                    tokens.span.extracting(4 * block..<4 * block + 4), extraKeys: extraKeys[block])
            }
            #expect(hasher.hashes(of: tokens.span) { extraKeys[$0] } == oneByOne)
        }
    }

    @Test func aCopiedChainGoesItsOwnWay() throws {
        let tokens: [UInt32] = [1, 2, 3, 4]
        var chain = try BlockHasher(blockSize: 4).chain()
        _ = chain.append(tokens.span.extracting(first: 3))
        var fork = chain
        let other: [UInt32] = [5]
        let forked = fork.append(other.span)
        let original = chain.append(tokens.span.extracting(last: 1))
        #expect(original == (try BlockHasher(blockSize: 4).hashes(of: tokens.span)))
        #expect(forked.count == 1)
        #expect(forked != original)
    }

    @Test func aChainGoesOnAfterAKnownBlock() throws {
        let tokens = Array<UInt32>(0..<12)
        let blocks = try BlockHasher(blockSize: 4)
        let hashes = blocks.hashes(of: tokens.span)
        var blockChain = blocks.chain(after: hashes[0])
        #expect(blockChain.append(tokens.span.extracting(4..<12)) == Array(hashes[1...]))

        let requests = try RequestKeyHasher(algorithm: .xxh64, model: "m", blockSize: 4)
        let keys = requests.keys(of: tokens.span)
        var keyChain = requests.chain(after: keys[0])
        #expect(keyChain.append(tokens.span.extracting(4..<12)) == Array(keys[1...]))
    }

    @Test(arguments: [Int.min, -1, 0, Int(UInt32.max) + 1, Int.max])
    func blockSizesThatAreRefused(size: Int) {
        #expect(throws: HashingError.blockSize(size)) { try BlockHasher(blockSize: size) }
        #expect(throws: HashingError.blockSize(size)) {
            try RequestKeyHasher(algorithm: .cborFNV, model: "m", blockSize: size)
        }
    }

    @Test(arguments: BlockHashAlgorithm.allCases)
    func blockSizesThatAPickleRefuses(algorithm: BlockHashAlgorithm) {
        let size = 4097
        if algorithm == .sha256 {
            #expect(throws: HashingError.blockSize(size)) {
                try BlockHasher(algorithm: algorithm, blockSize: size)
            }
        } else {
            #expect(throws: Never.self) { try BlockHasher(algorithm: algorithm, blockSize: size) }
        }
    }

    @Test func extraKeysThatAreRefused() throws {
        let pickled = try BlockHasher(algorithm: .sha256, blockSize: 4)
        #expect(throws: HashingError.self) {
            try pickled.extraKeys([.lora(name: "same", path: "same")])
        }
        #expect(throws: HashingError.self) {
            try pickled.extraKeys([.promptEmbeds([1])], release: .v0_9)
        }
        let sglang = try BlockHasher(sglangCacheSalt: nil, blockSize: 4)
        #expect(throws: HashingError.self) { try sglang.extraKeys([.cacheSalt("salt")]) }
    }

    @Test func noExtraKeysAreNone() throws {
        #expect(BlockExtraKeys([]) == .none)
        #expect(try BlockHasher(blockSize: 4).extraKeys([]) == .none)
        let hasher = try RequestKeyHasher(algorithm: .cborFNV, model: "m", blockSize: 4)
        #expect(hasher.extraKeys([]) == .none)
    }

    @Test func bytesOfABlockHash() throws {
        let hash = try #require(BlockHash(0..<32))
        #expect(MemoryLayout<BlockHash>.stride == BlockHash.byteCount)
        #expect(hash.bytes == Array(0..<32))
        #expect(hash.eventValue == 0x1819_1a1b_1c1d_1e1f)
        #expect(hash.sglangEventValue == 0x0001_0203_0405_0607)
        #expect(hash.description.hasPrefix("000102") && hash.description.hasSuffix("1e1f"))
        #expect(hash.description.count == 64)
        #expect(BlockHash(0..<31) == nil)
        #expect(BlockHash(0..<33) == nil)
        let short = try #require(ShortBlockHash(0..<16))
        #expect(MemoryLayout<ShortBlockHash>.stride == ShortBlockHash.byteCount)
        #expect(short.eventValue == 0x0809_0a0b_0c0d_0e0f)
        #expect(short.description == "000102030405060708090a0b0c0d0e0f")
        #expect(ShortBlockHash(0..<32) == nil)
        let fromReversed = try #require(BlockHash((0..<32).reversed()))
        #expect(fromReversed != hash)
    }
}
