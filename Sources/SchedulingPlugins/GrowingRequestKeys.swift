import Hashing
import Scheduling

/// The request keys of a prompt of token ids that still grows.
final class GrowingRequestKeys: PromptWork {
    /// What makes them.
    let hasher: RequestKeyHasher
    /// The salt that the first block's key covers.
    let cacheSalt: String?
    /// The keys of the full blocks so far.
    private(set) var keys: [UInt64] = []

    private var chain: RequestKeyChain
    /// The tokens of the first block until it is full; its key may cover more than theirs.
    private var first: [UInt32] = []

    /// Before the first token of about `expectedBytes` bytes of token ids in decimal.
    init(_ hasher: RequestKeyHasher, cacheSalt: String?, expectedBytes: Int) {
        self.hasher = hasher
        self.cacheSalt = cacheSalt
        chain = hasher.chain()
        // Most ids have 4 to 6 digits.
        keys.reserveCapacity(expectedBytes / 5 / hasher.blockSize + 1)
    }

    func append(_ tokens: Span<UInt32>) {
        guard keys.isEmpty, let cacheSalt else { return chain.append(tokens, to: &keys) }
        let missing = min(hasher.blockSize - first.count, tokens.count)
        tokens.extracting(first: missing).withUnsafeBufferPointer {
            first.append(contentsOf: $0)
        }
        guard first.count == hasher.blockSize else { return }
        chain.append(first.span, extraKeys: hasher.extraKeys([cacheSalt]), to: &keys)
        first = []
        chain.append(tokens.extracting(droppingFirst: missing), to: &keys)
    }

    func append(text: Span<UInt8>) {}
}
