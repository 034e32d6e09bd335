/// Replaces the number of cached prompt tokens in a response as it streams by.
///
/// The decode engine pulled the KV of the whole prompt, so that only the prefill engine knows what
/// of it came from a cache. The key `"cached_tokens"` with its bare quotes cannot stand inside a
/// JSON string, so that finding it needs no parsing: neither of one JSON object nor of a stream of
/// them, and bytes may be cut anywhere.
package struct CachedTokensRewriter {
    private enum State {
        case text
        /// So many bytes of the key were seen.
        case key(Int)
        case afterKey
        case beforeValue
        /// Inside the old value, which is dropped.
        case value
    }

    private static let key = Array("\"cached_tokens\"".utf8)
    private let replacement: [UInt8]
    private var state = State.text

    /// Makes a rewriter for one response.
    package init(cachedTokens: Int) {
        replacement = Array(String(cachedTokens).utf8)
    }

    /// Hands the rewritten bytes to `emit`, in one or more pieces that are valid during the call.
    package mutating func rewrite(
        _ bytes: UnsafeRawBufferPointer, emit: (UnsafeRawBufferPointer) -> Void
    ) {
        // The first byte that was neither emitted nor dropped.
        var start = 0
        for (index, byte) in bytes.enumerated() {
            switch state {
            case .text: if byte == quote { state = .key(1) }
            case .key(let count):
                if byte == Self.key[count] {
                    state = count + 1 == Self.key.count ? .afterKey : .key(count + 1)
                } else {
                    state = byte == quote ? .key(1) : .text
                }
            case .afterKey:
                if byte == colon {
                    state = .beforeValue
                } else if !isSpace(byte) {
                    state = byte == quote ? .key(1) : .text
                }
            case .beforeValue where isPartOfScalar(byte):
                emit(UnsafeRawBufferPointer(rebasing: bytes[start..<index]))
                replacement.withUnsafeBytes(emit)
                start = index + 1
                state = .value
            case .beforeValue: if !isSpace(byte) { state = byte == quote ? .key(1) : .text }
            case .value where isPartOfScalar(byte): start = index + 1
            case .value: state = byte == quote ? .key(1) : .text
            }
        }
        if start < bytes.count { emit(UnsafeRawBufferPointer(rebasing: bytes[start...])) }
    }
}

private let quote = UInt8(ascii: "\"")
private let colon = UInt8(ascii: ":")

private func isSpace(_ byte: UInt8) -> Bool {
    byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
}

/// Whether the byte belongs to a number or to `null`.
private func isPartOfScalar(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"): true
    case UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "+"), UInt8(ascii: "E"): true
    default: false
    }
}
