import Hashing
import Scheduling

/// Makes the keys of a prompt's blocks for matching that knows no engine: of its token ids, or of
/// its text, whose every 4 bytes count as a token.
enum PromptKeys {
    /// Bytes of text that count as one token.
    static let bytesPerToken = 4

    /// The keys of at most `maximumBlocks` blocks; empty if the prompt is not known.
    static func keys(
        of request: SchedulingRequest, blockSize: Int, maximumBlocks: Int
    ) -> [UInt64] {
        guard
            let hasher = try? ApproximatePrefixHasher(
                model: request.targetModel, cacheSalt: request.cacheSalt ?? "",
                blockSize: blockSize)
        else { return [] }
        let (limit, overflow) = blockSize.multipliedReportingOverflow(by: maximumBlocks)
        let maximumTokens = overflow ? Int.max / bytesPerToken : limit
        if !request.tokens.isEmpty {
            let tokens = request.tokens.span
            return hasher.keys(of: tokens.extracting(first: min(tokens.count, maximumTokens)))
        }
        guard let text = request.promptText else { return [] }
        let tokens = text.withBytes { Self.tokens(of: $0, maximum: maximumTokens) }
        return hasher.keys(of: tokens.span)
    }

    private static func tokens(of text: Span<UInt8>, maximum: Int) -> [UInt32] {
        let count = min((text.count + bytesPerToken - 1) / bytesPerToken, maximum)
        let whole = min(text.count / bytesPerToken, count)
        return [UInt32](unsafeUninitializedCapacity: count) { tokens, initialized in
            text.withUnsafeBytes { bytes in
                for i in 0..<whole {
                    tokens[i] = UInt32(
                        littleEndian: bytes.loadUnaligned(
                            fromByteOffset: bytesPerToken * i, as: UInt32.self))
                }
                guard whole < count else { return }
                var last: UInt32 = 0
                for i in (bytesPerToken * whole)..<bytes.count {
                    last |= UInt32(bytes[i]) << UInt32(8 * (i - bytesPerToken * whole))
                }
                tokens[whole] = last
            }
            initialized = count
        }
    }
}
