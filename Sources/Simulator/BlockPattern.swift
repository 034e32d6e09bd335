package import Hashing

/// The bytes of a KV block, as a function of its block hash: eight streams of xorshift64
/// (Marsaglia 2003), interleaved by 8-byte words and keyed by the hash.
///
/// An engine that computes a prompt fills its blocks with it; one that pulls them compares every
/// byte, so that a block that arrived wrong, stale or in the wrong place cannot pass for right.
package enum BlockPattern {
    /// Bytes that one step of the streams makes. Blocks are multiples of it.
    package static let strideBytes = 64

    /// Fills a block. Its size is a multiple of ``strideBytes`` and it is aligned to 8 bytes.
    package static func fill(_ block: UnsafeMutableRawBufferPointer, key: Key) {
        var streams = key.streams
        for offset in stride(from: 0, to: block.count, by: strideBytes) {
            streams.advance()
            block.storeBytes(of: streams, toByteOffset: offset, as: SIMD8<UInt64>.self)
        }
    }

    /// Whether every byte of a block is as ``fill(_:key:)`` makes it. Size and alignment as there.
    package static func matches(_ block: UnsafeRawBufferPointer, key: Key) -> Bool {
        var streams = key.streams
        var difference = SIMD8<UInt64>()
        for offset in stride(from: 0, to: block.count, by: strideBytes) {
            streams.advance()
            difference |=
                streams ^ block.loadUnaligned(fromByteOffset: offset, as: SIMD8<UInt64>.self)
        }
        return difference == SIMD8<UInt64>()
    }

    /// Where the streams of a block begin.
    package struct Key: Sendable {
        fileprivate let streams: SIMD8<UInt64>

        /// The key of the block with this hash.
        package init(_ hash: BlockHash) {
            var seed: UInt64 = 0
            for offset in stride(from: 0, to: BlockHash.byteCount, by: 8) {
                let word = hash.withUnsafeBytes {
                    $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
                }
                var mixer = SeededGenerator(seed: seed ^ word)
                seed = mixer.next()
            }
            var generator = SeededGenerator(seed: seed)
            var streams = SIMD8<UInt64>()
            for lane in streams.indices {
                // xorshift stays at zero for ever, so a stream never starts there.
                streams[lane] = generator.next() | 1
            }
            self.streams = streams
        }
    }
}

extension SIMD8<UInt64> {
    /// One step of xorshift64 in every lane.
    fileprivate mutating func advance() {
        self ^= self &<< 13
        self ^= self &>> 7
        self ^= self &<< 17
    }
}
