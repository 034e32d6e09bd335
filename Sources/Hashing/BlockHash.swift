/// The name of a full KV block and of everything before it: a digest of vLLM's `sha256_cbor`.
public struct BlockHash: Hashable, Sendable {
    /// The number of bytes in a hash.
    public static let byteCount = 32

    // The digest as it lies in memory: the C core writes arrays of these.
    private var word0: UInt64 = 0
    private var word1: UInt64 = 0
    private var word2: UInt64 = 0
    private var word3: UInt64 = 0

    /// Takes the bytes of a digest; nil unless there are 32.
    public init?(_ bytes: some Collection<UInt8>) {
        guard bytes.count == Self.byteCount else { return nil }
        withUnsafeMutableBytes(of: &self) { $0.copyBytes(from: bytes) }
    }

    init(writtenBy write: (UnsafeMutablePointer<UInt8>) -> Void) {
        withUnsafeMutableBytes(of: &self) { buffer in
            if let bytes = buffer.bindMemory(to: UInt8.self).baseAddress { write(bytes) }
        }
    }

    /// What vLLM's KV events carry for this block by default: the last 8 bytes, big-endian.
    public var eventValue: UInt64 { UInt64(bigEndian: word3) }

    /// The digest's bytes in order.
    public var bytes: [UInt8] { withUnsafeBytes { Array($0) } }

    /// Calls `body` with the 32 bytes of the digest, which are valid until it returns.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try Swift.withUnsafeBytes(of: self, body)
    }
}

extension BlockHash: CustomStringConvertible {
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
