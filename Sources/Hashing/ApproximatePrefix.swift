import CHashing

/// A prompt whose keys for llm-d's approximate prefix matching are wanted: a router remembers by
/// them which endpoint it sent a prefix to. The last block counts even if it is not full.
///
/// Takes the prompt as it comes. What is done with its bytes needs neither model nor cache salt;
/// ``keys(model:cacheSalt:)`` adds those.
public struct ApproximatePrefix: Sendable {
    /// Bytes of text that count as one token.
    public static let bytesPerToken = MemoryLayout<UInt32>.size

    /// Tokens per block.
    public let blockSize: Int
    /// The blocks that are looked at; what follows them is not.
    public let maximumBlocks: Int

    /// What is in each full block, as a hash.
    private var contents: [UInt64] = []
    /// The bytes of the open block.
    private var open: [UInt8] = []
    private var blockBytes: Int { blockSize * Self.bytesPerToken }

    /// An empty prompt. Has room for the blocks of `expectedBytes` bytes of text or of token ids
    /// of 4 bytes.
    ///
    /// - Throws: ``HashingError/blockSize(_:)``.
    public init(
        blockSize: Int, maximumBlocks: Int = .max, expectedBytes: Int = 0
    ) throws(HashingError) {
        guard (1...Int(UInt32.max)).contains(blockSize) else { throw .blockSize(blockSize) }
        self.blockSize = blockSize
        self.maximumBlocks = maximumBlocks
        contents.reserveCapacity(min(expectedBytes / blockBytes + 1, maximumBlocks))
    }

    /// Adds token ids.
    public mutating func append(_ tokens: Span<UInt32>) {
        tokens.withUnsafeBytes { append($0) }
    }

    /// Adds text; a token may lie in two pieces. Not to be mixed with token ids.
    public mutating func append(text: Span<UInt8>) {
        text.withUnsafeBytes { append($0) }
    }

    private mutating func append(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes[...]
        if !open.isEmpty {
            let missing = rest.prefix(blockBytes - open.count)
            rest = rest.dropFirst(missing.count)
            open.append(contentsOf: missing)
            guard open.count == blockBytes else { return }
            open.withUnsafeBytes { add($0) }
            open.removeAll(keepingCapacity: true)
        }
        while rest.count >= blockBytes, contents.count < maximumBlocks {
            add(UnsafeRawBufferPointer(rebasing: rest.prefix(blockBytes)))
            rest = rest.dropFirst(blockBytes)
        }
        if contents.count < maximumBlocks { open.append(contentsOf: rest) }
    }

    private mutating func add(_ block: UnsafeRawBufferPointer) {
        contents.append(Self.content(of: block))
    }

    private static func content(of block: UnsafeRawBufferPointer) -> UInt64 {
        ch_approximate_content(ch_bytes(bytes: block.baseAddress, count: block.count))
    }

    /// The keys of the blocks of what was added, for requests to this model with this cache salt
    /// or without one. Zeros fill the last token of a text.
    public func keys(model: String, cacheSalt: String = "") -> [UInt64] {
        var keys = contents
        if !open.isEmpty {
            let odd = open.count % Self.bytesPerToken
            let last = odd == 0 ? open : open + repeatElement(0, count: Self.bytesPerToken - odd)
            keys.append(last.withUnsafeBytes { Self.content(of: $0) })
        }
        let root = PrefixHasher<UInt64>.root(CH_APPROXIMATE, seed: cacheSalt, model: model)
        keys.withUnsafeMutableBufferPointer {
            ch_approximate_keys(root, $0.baseAddress, $0.count, $0.baseAddress)
        }
        return keys
    }
}
