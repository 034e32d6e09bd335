import CHashing

/// What the block hashes of one request cover beside its tokens, for vLLM.
public struct PromptExtras: Hashable, Sendable {
    /// A LoRA adapter.
    public struct Adapter: Hashable, Sendable {
        /// Its name.
        public var name: String
        /// Where the engine loaded it from.
        public var path: String
        /// The number that the engine gave it.
        public var number: Int

        /// Makes an adapter.
        public init(name: String, path: String, number: Int = 0) {
            self.name = name
            self.path = path
            self.number = number
        }
    }

    /// A multimodal item and the tokens that stand for it.
    public struct Item: Hashable, Sendable {
        /// The item's hash or the name that the request gave it.
        public var identifier: String
        /// The index of its first token.
        public var offset: Int
        /// The number of its tokens.
        public var length: Int

        /// Makes an item.
        public init(identifier: String, offset: Int, length: Int) {
            self.identifier = identifier
            self.offset = offset
            self.length = length
        }
    }

    /// Embeddings that stand in for token ids.
    public struct Embeddings: Hashable, Sendable {
        /// The tensor's bytes.
        public var bytes: [UInt8]
        /// The bytes of one token.
        public var bytesPerToken: Int

        /// Makes embeddings.
        public init(bytes: [UInt8], bytesPerToken: Int) {
            self.bytes = bytes
            self.bytesPerToken = bytesPerToken
        }
    }

    /// The request's adapter.
    public var adapter: Adapter?
    /// The items in the order of the prompt.
    public var items: [Item] = []
    /// The request's cache salt.
    public var cacheSalt: String?
    /// The request's prompt embeddings.
    public var embeddings: Embeddings?

    /// Makes the extras of a plain request.
    public init() {}

    /// The keys of the block of these tokens, which with a speculating engine reach beyond it.
    public func keys(of tokens: Range<Int>, release: VLLMRelease = .v0_33) -> [BlockExtraKey] {
        var keys: [BlockExtraKey] = []
        if let adapter {
            keys.append(
                .lora(name: adapter.name, path: adapter.path, number: adapter.number))
        }
        for item in items
        where item.offset < tokens.upperBound && item.offset + item.length > tokens.lowerBound {
            keys.append(
                .multimodal(
                    identifier: item.identifier, offset: item.offset - tokens.lowerBound))
        }
        if tokens.lowerBound == 0, let cacheSalt { keys.append(.cacheSalt(cacheSalt)) }
        if let embeddings {
            let end = min(tokens.upperBound * embeddings.bytesPerToken, embeddings.bytes.count)
            let start = min(tokens.lowerBound * embeddings.bytesPerToken, end)
            let bytes = embeddings.bytes[start..<end]
            let isWhole = release == .v0_9 || release == .v0_14
            keys.append(.promptEmbeds(isWhole ? Array(bytes) : Self.sha256(bytes)))
        }
        return keys
    }

    private static func sha256(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        Array(unsafeUninitializedCapacity: BlockHash.byteCount) { digest, count in
            bytes.withUnsafeBytes {
                ch_sha256(ch_bytes(bytes: $0.baseAddress, count: $0.count), digest.baseAddress)
            }
            count = BlockHash.byteCount
        }
    }
}
