import Hashing
import Scheduling

/// Makes the keys of a prompt's blocks for matching that knows no engine: of its token ids, or of
/// its text, whose every 4 bytes count as a token.
final class PromptKeys: PromptWork {
    private var prefix: ApproximatePrefix

    /// Nil if there are no such blocks.
    private init?(blockSize: Int, maximumBlocks: Int, expectedBytes: Int) {
        guard
            let prefix = try? ApproximatePrefix(
                blockSize: blockSize, maximumBlocks: maximumBlocks, expectedBytes: expectedBytes)
        else { return nil }
        self.prefix = prefix
    }

    /// Starts on a prompt.
    convenience init?(of beginning: PromptBeginning, blockSize: Int, maximumBlocks: Int) {
        self.init(
            blockSize: blockSize, maximumBlocks: maximumBlocks,
            expectedBytes: beginning.expectedBytes)
    }

    func append(_ tokens: Span<UInt32>) { prefix.append(tokens) }

    func append(text: Span<UInt8>) { prefix.append(text: text) }

    /// The keys of at most `maximumBlocks` blocks; empty if the prompt is not known. `producer` may
    /// have followed the prompt.
    static func keys(
        of request: SchedulingRequest, for producer: String, blockSize: Int, maximumBlocks: Int
    ) -> [UInt64] {
        if let done = request.promptWork(of: producer) as? PromptKeys,
            done.prefix.blockSize == blockSize, done.prefix.maximumBlocks == maximumBlocks
        {
            return done.keys(for: request)
        }
        let byteCount =
            request.tokenCount > 0
            ? request.tokenCount * ApproximatePrefix.bytesPerToken
            : request.promptText?.byteCount ?? 0
        guard
            let whole = PromptKeys(
                blockSize: blockSize, maximumBlocks: maximumBlocks, expectedBytes: byteCount)
        else { return [] }
        if request.tokenCount > 0 {
            whole.append(request.tokens.span)
        } else {
            request.promptText?.forEachPart { whole.append(text: $0) }
        }
        return whole.keys(for: request)
    }

    private func keys(for request: SchedulingRequest) -> [UInt64] {
        prefix.keys(model: request.targetModel, cacheSalt: request.cacheSalt ?? "")
    }
}
