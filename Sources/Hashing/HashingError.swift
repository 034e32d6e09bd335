/// Why a hasher cannot be made.
public enum HashingError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Not a number of tokens from 1 to 4294967295.
    case blockSize(Int)

    /// What was wrong, for people.
    public var description: String {
        switch self {
        case .blockSize(let size):
            "block size \(size): not between 1 and \(UInt32.max) tokens"
        }
    }

    static func check(blockSize: Int) throws(HashingError) {
        guard blockSize >= 1, blockSize <= Int(UInt32.max) else { throw .blockSize(blockSize) }
    }
}
