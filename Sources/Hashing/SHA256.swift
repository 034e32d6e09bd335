import CHashing

/// SHA-256 (FIPS 180-4) of a message: 32 bytes.
public func sha256(_ message: some Collection<UInt8>) -> [UInt8] {
    let message = Array(message)
    return [UInt8](unsafeUninitializedCapacity: 32) { digest, count in
        message.withUnsafeBytes {
            ch_sha256(ch_bytes(bytes: $0.baseAddress, count: $0.count), digest.baseAddress)
        }
        count = 32
    }
}
