import Hashing
import Simulator
import Testing

@Suite struct BlockPatternTests {
    private func key(_ number: UInt64) -> BlockPattern.Key { BlockPattern.Key(hash(number)) }

    private func block(_ number: UInt64) -> [UInt64] {
        var words = [UInt64](repeating: 0, count: 2048)
        words.withUnsafeMutableBytes { BlockPattern.fill($0, key: key(number)) }
        return words
    }

    @Test func dependsOnTheHashAlone() {
        #expect(block(1) == block(1))
        #expect(Set(block(1) + block(2)).count == 4096)
    }

    @Test func everyByteCounts() {
        var words = block(3)
        #expect(words.withUnsafeBytes { BlockPattern.matches($0, key: key(3)) })
        #expect(words.withUnsafeBytes { !BlockPattern.matches($0, key: key(4)) })
        for byte in [0, 1, 63, 64, 8191, 16383] {
            words.withUnsafeMutableBytes { $0[byte] ^= 0x10 }
            #expect(
                words.withUnsafeBytes { !BlockPattern.matches($0, key: key(3)) }, "byte \(byte)")
            words.withUnsafeMutableBytes { $0[byte] ^= 0x10 }
        }
    }

    /// Written out a second time, one stream after another.
    @Test func isInterleavedXorshift() {
        let words = block(5)
        var seed: UInt64 = 0
        for offset in stride(from: 0, to: 32, by: 8) {
            let word = hash(5).withUnsafeBytes {
                $0.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
            }
            var mixer = SeededGenerator(seed: seed ^ word)
            seed = mixer.next()
        }
        var generator = SeededGenerator(seed: seed)
        for lane in 0..<8 {
            var state = generator.next() | 1
            for step in 0..<256 {
                state ^= state << 13
                state ^= state >> 7
                state ^= state << 17
                #expect(words[step * 8 + lane] == state)
            }
        }
    }
}
