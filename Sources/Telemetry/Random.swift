import Glibc
import Synchronization

/// Random bits for identifiers. The kernel is asked for many at a time: a call is most of what
/// they cost.
func randomWords() -> (UInt64, UInt64, UInt64) {
    store.withLock { $0.next() }
}

private let store = Mutex(RandomStore())

private struct RandomStore {
    private static let count = 96

    private var words = [UInt64](repeating: 0, count: count)
    private var left = 0

    mutating func next() -> (UInt64, UInt64, UInt64) {
        if left == 0 {
            // getentropy gives 256 bytes at most.
            words.withUnsafeMutableBytes { bytes in
                for start in stride(from: 0, to: bytes.count, by: 256) {
                    let status = getentropy(bytes.baseAddress.map { $0 + start }, 256)
                    precondition(status == 0, "no random numbers")
                }
            }
            left = Self.count
        }
        left -= 3
        return (words[left], words[left + 1], words[left + 2])
    }
}
