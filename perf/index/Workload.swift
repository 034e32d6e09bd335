import Foundation
import KVIndex
import Scan

/// Prompts and the events of the engines that hold them.
struct Workload {
    static let blockSize = 16
    static let blocksPerPrompt = 512
    static let engineCount = 256
    private static let groupSize = 16
    private static let vocabulary: UInt64 = 128_256

    /// Half of each prompt is that of 15 others.
    let prompts: [[UInt32]]
    let events: [Event]
    /// The same number of blocks, all different.
    let unsharedEvents: [Event]
    /// Events of one block each, behind the prompts.
    let smallEvents: [Event]

    var blockCount: Int { prompts.count * Self.blocksPerPrompt }

    /// A payload as an engine publishes it.
    struct Event {
        let payload: [UInt8]

        func decode(into batch: inout KVEventBatch) throws {
            let result = payload.withUnsafeBytes { bytes in
                Result { () throws(KVIndexError) in
                    try KVEventDecoder.decode(bytes, into: &batch)
                }
            }
            try result.get()
        }
    }

    init(promptCount: Int) {
        let half = Self.blocksPerPrompt / 2 * Self.blockSize
        prompts = (0..<promptCount).map { number in
            Self.tokens(seed: UInt64(number / Self.groupSize), half)
                + Self.tokens(seed: UInt64(number) + 1 << 32, half)
        }
        events = prompts.enumerated().map { number, prompt in
            Event(payload: Self.payload(firstHash: Self.hash(number, 0), nil, prompt))
        }
        unsharedEvents = (0..<promptCount).map { number in
            Event(
                payload: Self.payload(
                    firstHash: Self.hash(number, 0), nil,
                    Self.tokens(seed: UInt64(number) + 2 << 32, 2 * half)))
        }
        smallEvents = (0..<20_000).map { number in
            let prompt = number % promptCount
            let parent = Self.hash(Self.hash(prompt, 0), after: Self.blocksPerPrompt - 1)
            return Event(
                payload: Self.payload(
                    firstHash: Self.hash(number, 1 << 20), parent,
                    Self.tokens(seed: UInt64(number) + 3 << 32, Self.blockSize)))
        }
    }

    /// For each engine what makes it hold another length of the prompt that `batch` stores.
    static func removals(of batch: KVEventBatch) -> [KVEventBatch] {
        (0..<engineCount).map { number in
            var writer = MessagePackWriter()
            let gone = batch.hashes[(blocksPerPrompt - number * 2)...]
            writer.array(count: 2)
            writer.double(1)
            writer.array(count: 1)
            writer.array(count: 2)
            writer.string("BlockRemoved")
            writer.array(count: gone.count)
            for hash in gone { writer.unsigned(hash) }
            var removal = KVEventBatch()
            try? Event(payload: writer.bytes).decode(into: &removal)
            return removal
        }
    }

    /// SplitMix64 (public domain, Vigna).
    private static func mixed(_ value: UInt64) -> UInt64 {
        var mixed = value &* 0x9e37_79b9_7f4a_7c15
        mixed = (mixed ^ mixed >> 30) &* 0xbf58_476d_1ce4_e5b9
        mixed = (mixed ^ mixed >> 27) &* 0x94d0_49bb_1331_11eb
        return mixed ^ mixed >> 31
    }

    private static func tokens(seed: UInt64, _ count: Int) -> [UInt32] {
        (0..<count).map { UInt32(mixed(seed << 16 &+ UInt64($0) &+ 1) % vocabulary) }
    }

    private static func hash(_ prompt: Int, _ block: Int) -> UInt64 {
        mixed(UInt64(prompt) << 24 &+ UInt64(block) &+ 1)
    }

    /// The hash of the block that lies so many behind the first one of an event.
    private static func hash(_ first: UInt64, after count: Int) -> UInt64 {
        count == 0 ? first : mixed(first &+ UInt64(count))
    }

    /// A batch of one store in the form of vLLM 0.33; block `n` has the `n`-th hash after the
    /// first.
    private static func payload(
        firstHash: UInt64, _ parent: UInt64?, _ tokens: [UInt32]
    ) -> [UInt8] {
        var writer = MessagePackWriter()
        writer.array(count: 3)
        writer.double(1)
        writer.array(count: 1)
        writer.map(count: 8)
        writer.string("type")
        writer.string("BlockStored")
        writer.string("block_hashes")
        writer.array(count: tokens.count / blockSize)
        for block in 0..<tokens.count / blockSize {
            writer.unsigned(hash(firstHash, after: block))
        }
        writer.string("parent_block_hash")
        if let parent { writer.unsigned(parent) } else { writer.null() }
        writer.string("token_ids")
        writer.array(count: tokens.count)
        for token in tokens { writer.unsigned(UInt64(token)) }
        writer.string("block_size")
        writer.unsigned(UInt64(blockSize))
        writer.string("lora_id")
        writer.null()
        writer.string("medium")
        writer.string("GPU")
        writer.string("lora_name")
        writer.null()
        writer.unsigned(0)
        return writer.bytes
    }
}
