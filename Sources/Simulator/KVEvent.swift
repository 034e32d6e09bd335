package import Hashing
import Scan

/// A change of the set of cached blocks, as an engine announces it.
package enum KVEvent: Equatable, Sendable {
    /// Blocks that follow one another are now cached.
    case stored(Stored)
    /// A block is cached no longer.
    case removed(BlockHash)
    /// No block is cached any longer.
    case cleared

    /// A run of blocks.
    package struct Stored: Equatable, Sendable {
        /// Their hashes.
        package var hashes: [BlockHash] = []
        /// The block before them; nil for the first of a prompt.
        package var parent: BlockHash?
        /// Their tokens, a block's worth for each hash.
        package var tokens: [UInt32] = []
        /// The adapter of the prompt, if it has one.
        package var adapter: LoRAAdapter?
        /// The cache salt, if the run begins with the first block of a salted prompt.
        package var salt: String?

        /// An empty run.
        package init(parent: BlockHash?, adapter: LoRAAdapter? = nil, salt: String?) {
            self.parent = parent
            self.adapter = adapter
            self.salt = salt
        }
    }
}

extension KVEvent {
    /// A batch as vLLM 0.32 publishes it: msgpack, an array of the time, the events and the rank,
    /// each event a map. Hashes go out as their low 64 bits.
    ///
    /// - Parameters:
    ///   - time: seconds since 1970.
    ///   - blockSize: tokens in a block.
    package static func encode(_ events: [KVEvent], time: Double, blockSize: Int) -> [UInt8] {
        var writer = MessagePackWriter()
        writer.array(count: 3)
        writer.double(time)
        writer.array(count: events.count)
        for event in events {
            switch event {
            case .stored(let stored): stored.write(to: &writer, blockSize: blockSize)
            case .removed(let hash):
                writer.map(count: 4)
                writer.string("type")
                writer.string("BlockRemoved")
                writer.string("block_hashes")
                writer.array(count: 1)
                writer.unsigned(hash.eventValue)
                writer.string("medium")
                writer.string("GPU")
                writer.string("group_idx")
                writer.int(0)
            case .cleared:
                writer.map(count: 1)
                writer.string("type")
                writer.string("AllBlocksCleared")
            }
        }
        writer.int(0)
        return writer.bytes
    }
}

extension KVEvent.Stored {
    fileprivate func write(to writer: inout MessagePackWriter, blockSize: Int) {
        writer.map(count: 11)
        writer.string("type")
        writer.string("BlockStored")
        writer.string("block_hashes")
        writer.array(count: hashes.count)
        for hash in hashes { writer.unsigned(hash.eventValue) }
        writer.string("parent_block_hash")
        if let parent { writer.unsigned(parent.eventValue) } else { writer.null() }
        writer.string("token_ids")
        writer.array(count: tokens.count)
        for token in tokens { writer.unsigned(UInt64(token)) }
        writer.string("block_size")
        writer.unsigned(UInt64(blockSize))
        writer.string("lora_id")
        if let adapter { writer.unsigned(UInt64(adapter.id)) } else { writer.null() }
        writer.string("medium")
        writer.string("GPU")
        writer.string("lora_name")
        if let adapter { writer.string(adapter.module.name) } else { writer.null() }
        writer.string("extra_keys")
        writer.array(count: hashes.count)
        for index in hashes.indices {
            let keys = [adapter?.module.name, index == 0 ? salt : nil].compactMap(\.self)
            guard !keys.isEmpty else {
                writer.null()
                continue
            }
            writer.array(count: keys.count)
            for key in keys { writer.string(key) }
        }
        writer.string("group_idx")
        writer.int(0)
        writer.string("kv_cache_spec_kind")
        writer.string("full_attention")
    }
}
