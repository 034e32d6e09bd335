/// What names a block and everything before it: as long as the result of its algorithm.
public protocol BlockKey: BitwiseCopyable, Hashable, Sendable {}

/// A request key of llm-d's.
extension UInt64: BlockKey {}

/// A digest of an engine's block hash, as it lies in memory.
public protocol BlockDigest: BlockKey, CustomStringConvertible {
    /// The number of bytes in a digest.
    static var byteCount: Int { get }

    /// Takes the bytes of a digest; nil unless there are ``byteCount``.
    init?(_ bytes: some Collection<UInt8>)
}

extension BlockDigest {
    /// The digest's bytes in order.
    public var bytes: [UInt8] { withUnsafeBytes { Array($0) } }

    /// What vLLM's KV events carry for this block by default: the last 8 bytes, big-endian.
    public var eventValue: UInt64 {
        withUnsafeBytes {
            UInt64(
                bigEndian: $0.loadUnaligned(fromByteOffset: Self.byteCount - 8, as: UInt64.self))
        }
    }

    /// Calls `body` with the bytes of the digest, which are valid until it returns.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try Swift.withUnsafeBytes(of: self, body)
    }

    /// The digest in lower-case hexadecimal.
    public var description: String {
        let digits = Array("0123456789abcdef".utf8)
        return withUnsafeBytes { bytes in
            String(unsafeUninitializedCapacity: 2 * bytes.count) { text in
                for (index, byte) in bytes.enumerated() {
                    text[2 * index] = digits[Int(byte >> 4)]
                    text[2 * index + 1] = digits[Int(byte & 15)]
                }
                return text.count
            }
        }
    }
}

/// A digest of SHA-256: the block hash of vLLM's `sha256_cbor` and `sha256`, and of SGLang.
public struct BlockHash: BlockDigest {
    /// The number of bytes in a hash.
    public static let byteCount = 32

    private var word0: UInt64 = 0
    private var word1: UInt64 = 0
    private var word2: UInt64 = 0
    private var word3: UInt64 = 0

    /// Takes the bytes of a digest; nil unless there are 32.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        withUnsafeMutableBytes(of: &self) { $0.copyBytes(from: bytes) }
    }

    /// What SGLang's KV events carry for this block: the first 8 bytes, big-endian.
    public var sglangEventValue: Int64 { Int64(bitPattern: UInt64(bigEndian: word0)) }
}

/// A digest of XXH3-128: the block hash of vLLM's `xxhash_cbor` and `xxhash`.
public struct ShortBlockHash: BlockDigest {
    /// The number of bytes in a hash.
    public static let byteCount = 16

    private var word0: UInt64 = 0
    private var word1: UInt64 = 0

    /// Takes the bytes of a digest; nil unless there are 16.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        withUnsafeMutableBytes(of: &self) { $0.copyBytes(from: bytes) }
    }
}
