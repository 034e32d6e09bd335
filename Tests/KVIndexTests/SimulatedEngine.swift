import Core
import KVIndex
import Scan

/// An engine as the index sees it: batches in order, a buffer of the last ones, restarts.
struct SimulatedEngine {
    static let blockSize = 4

    struct Batch {
        var sequence: UInt64
        var payload: [UInt8]
    }

    /// Blocks that it holds: tokens of the whole prefix and the tiers by number of stores.
    private(set) var blocks: [UInt64: ModelBlock] = [:]
    /// What each hash that was ever sent stands for.
    private var prefixes: [UInt64: ModelPrefix] = [:]
    /// What a replay can still give.
    private(set) var buffer: [Batch] = []
    private var nextSequence: UInt64 = 0
    private var processNumber: UInt64 = 0
    private let number: UInt64
    /// Field names or positions: both are on the wire.
    private let writesMaps: Bool
    private let bufferLimit: Int

    init(number: Int, writesMaps: Bool, bufferLimit: Int) {
        self.number = UInt64(number)
        self.writesMaps = writesMaps
        self.bufferLimit = bufferLimit
    }

    /// The engine's own hash of a prefix: FNV-1a.
    private func hash(_ tokens: ArraySlice<UInt32>) -> UInt64 {
        var hash = 0xcbf2_9ce4_8422_2325 ^ number &* 0x9e37_79b9_7f4a_7c15
        for token in tokens { hash = (hash ^ UInt64(token)) &* 0x100_0000_01b3 }
        return hash
    }

    /// Computes a prompt: stores the blocks that it does not hold yet, sometimes all once more.
    mutating func compute(
        _ prompt: [UInt32], againAll: Bool, using random: inout SeededGenerator
    ) -> Batch {
        let count = prompt.count / Self.blockSize
        let hashes = (1...count).map { hash(prompt[..<($0 * Self.blockSize)]) }
        let known = hashes.prefix { (blocks[$0]?.references[0] ?? 0) > 0 }.count
        let first = againAll ? 0 : known
        for block in first..<count {
            let prefix = ModelPrefix(
                model: "m", salt: nil, tokens: Array(prompt[..<((block + 1) * Self.blockSize)]))
            let new = ModelBlock(prefix: prefix, size: Self.blockSize)
            blocks[hashes[block], default: new].references[0] += 1
            prefixes[hashes[block]] = prefix
        }
        return send(
            payload { writer in
                guard first < count else { return writer.array(count: 0) }
                writer.array(count: 1)
                writeStore(
                    &writer, Array(hashes[first...]), parent: first > 0 ? hashes[first - 1] : nil,
                    Array(prompt[(first * Self.blockSize)..<(count * Self.blockSize)]))
            })
    }

    /// Drops some blocks from a tier, as often as they were stored there; one event each.
    mutating func evict(_ count: Int, using random: inout SeededGenerator) -> Batch {
        var removals: [(hash: UInt64, tier: Int)] = []
        for _ in 0..<count {
            guard let hash = blocks.keys.sorted().randomElement(using: &random),
                let block = blocks[hash],
                let tier = block.references.firstIndex(where: { $0 > 0 })
            else { break }
            for _ in 0..<block.references[tier] { removals.append((hash, tier)) }
            blocks[hash]?.references[tier] = 0
            if blocks[hash]?.references.allSatisfy({ $0 == 0 }) == true { blocks[hash] = nil }
        }
        return send(
            payload { writer in
                writer.array(count: removals.count)
                for removal in removals { writeRemoval(&writer, removal.hash, removal.tier) }
            })
    }

    /// Copies a block to CPU memory: the event tells only the place.
    mutating func offload(using random: inout SeededGenerator) -> Batch {
        let hash = blocks.keys.sorted().randomElement(using: &random)
        if let hash { blocks[hash]?.references[1] += 1 }
        return send(
            payload { writer in
                guard let hash else { return writer.array(count: 0) }
                writer.array(count: 1)
                writeStore(&writer, [hash], parent: nil, [], medium: "CPU")
            })
    }

    mutating func clear() -> Batch {
        blocks = [:]
        return send(
            payload { writer in
                writer.array(count: 1)
                if writesMaps {
                    writer.map(count: 1)
                    writer.string("type")
                } else {
                    writer.array(count: 1)
                }
                writer.string("AllBlocksCleared")
            })
    }

    /// Says nothing, but that it is there.
    mutating func beat() -> Batch { send(payload { $0.array(count: 0) }) }

    mutating func restart() {
        blocks = [:]
        buffer = []
        nextSequence = 0
        processNumber += 1
    }

    func prefix(of hash: UInt64) -> ModelPrefix {
        prefixes[hash] ?? ModelPrefix(model: "", salt: nil, tokens: [])
    }

    func replay(from sequence: UInt64) -> [Batch] { buffer.filter { $0.sequence >= sequence } }

    // MARK: - Wire format

    private func payload(_ events: (inout MessagePackWriter) -> Void) -> [UInt8] {
        var writer = MessagePackWriter()
        writer.array(count: 3)
        // No two processes send at the same time.
        writer.double(Double(processNumber * 1_000_000 + nextSequence))
        events(&writer)
        writer.null()
        return writer.bytes
    }

    private mutating func send(_ payload: [UInt8]) -> Batch {
        let batch = Batch(sequence: nextSequence, payload: payload)
        nextSequence += 1
        buffer.append(batch)
        if buffer.count > bufferLimit { buffer.removeFirst() }
        return batch
    }

    private func writeStore(
        _ writer: inout MessagePackWriter, _ hashes: [UInt64], parent: UInt64?,
        _ tokens: [UInt32], medium: String = "GPU"
    ) {
        func name(_ name: String) { if writesMaps { writer.string(name) } }
        if writesMaps { writer.map(count: 7) } else { writer.array(count: 7) }
        name("type")
        writer.string("BlockStored")
        name("block_hashes")
        writer.array(count: hashes.count)
        for hash in hashes { writer.unsigned(hash) }
        name("parent_block_hash")
        if let parent { writer.unsigned(parent) } else { writer.null() }
        name("token_ids")
        writer.array(count: tokens.count)
        for token in tokens { writer.unsigned(UInt64(token)) }
        name("block_size")
        writer.unsigned(tokens.isEmpty ? 0 : UInt64(Self.blockSize))
        name("lora_id")
        writer.null()
        name("medium")
        writer.string(medium)
    }

    private func writeRemoval(_ writer: inout MessagePackWriter, _ hash: UInt64, _ tier: Int) {
        func name(_ name: String) { if writesMaps { writer.string(name) } }
        if writesMaps { writer.map(count: 3) } else { writer.array(count: 3) }
        name("type")
        writer.string("BlockRemoved")
        name("block_hashes")
        writer.array(count: 1)
        writer.unsigned(hash)
        name("medium")
        writer.string(tier == 0 ? "GPU" : "CPU")
    }
}
