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
        return [UInt32](unsafeUninitializedCapacity: count) { tokens, initialized in
            // The last one may be filled up with zeros.
            if count > 0 { tokens[count - 1] = 0 }
            text.withUnsafeBytes { bytes in
                UnsafeMutableRawBufferPointer(tokens).copyMemory(
                    from: UnsafeRawBufferPointer(rebasing: bytes.prefix(count * bytesPerToken)))
            }
            for i in 0..<count { tokens[i] = UInt32(littleEndian: tokens[i]) }
            initialized = count
        }
    }
}
