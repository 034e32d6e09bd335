import Hashing

/// The tokens at the end of a sequence that do not fill an index block yet, where an engine's
/// block ends inside one.
struct Tail: Equatable, Sendable {
    var tokens: [UInt32]
    /// Hashes of the multimodal items that overlap the tokens.
    var multimodal: [String]
    var cacheSalt: String?

    /// For the byte budget.
    var byteCount: Int { 96 + 4 * tokens.count + 48 * multimodal.count }
}

/// The place in a sequence after which blocks are stored.
struct SequencePoint: Sendable {
    /// The last request key; the model's root at the start.
    var key: UInt64
    var tail: Tail?
    /// Whether no token lies before.
    var isStart: Bool

    /// For the byte budget.
    var byteCount: Int { 64 + (tail?.byteCount ?? 0) }
}

/// The request keys of the blocks of one store, computed from their tokens: engine and index may
/// cut the same sequence into blocks of different sizes.
struct RequestKeyPath {
    /// All index blocks that the store completes.
    let keys: [UInt64]
    private let start: SequencePoint
    private let blockSize: Int
    private let engineBlockSize: Int

    /// What of an event concerns the extra keys.
    private struct Extras {
        /// Multimodal items in the order of the sequence, at their place in tokens from the path's
        /// first; an item is listed again for each engine block that it reaches into.
        var items: [(range: Range<Int>, isContinued: Bool, value: String)] = []
        var cacheSalt: String?
        var isEmpty: Bool { items.isEmpty && cacheSalt == nil }
    }

    private let extras: Extras
    private let tokens: ArraySlice<UInt32>
    private var tailCount: Int { start.tail?.tokens.count ?? 0 }

    init(
        _ stored: BlocksStored, in batch: KVEventBatch, from start: SequencePoint,
        hasher: RequestKeyHasher
    ) {
        self.start = start
        blockSize = hasher.blockSize
        engineBlockSize = stored.blockSize
        extras = Self.extras(of: stored, in: batch, from: start)
        let tokens =
            start.tail.map { ArraySlice($0.tokens + batch.tokens[stored.tokens]) }
            ?? batch.tokens[stored.tokens]
        self.tokens = tokens
        keys = Self.keys(of: tokens, extras: extras, from: start, hasher: hasher)
    }

    /// The keys that the `block`-th engine block completes, as indices of ``keys``.
    func keyRange(of block: Int) -> Range<Int> {
        completed(by: block)..<completed(by: block + 1)
    }

    /// Where the sequence goes on after the `block`-th engine block.
    func point(atEndOf block: Int) -> SequencePoint {
        let completed = completed(by: block + 1)
        let end = tailCount + (block + 1) * engineBlockSize
        let first = completed * blockSize
        let key = completed > 0 ? keys[completed - 1] : start.key
        guard first < end else { return SequencePoint(key: key, tail: nil, isStart: false) }
        let tail = Tail(
            tokens: Array(tokens[tokens.startIndex + first..<tokens.startIndex + end]),
            multimodal: Self.multimodal(of: extras, in: first..<end),
            cacheSalt: first == 0 ? extras.cacheSalt : nil)
        return SequencePoint(key: key, tail: tail, isStart: false)
    }

    private func completed(by blockCount: Int) -> Int {
        (tailCount + blockCount * engineBlockSize) / blockSize
    }

    // MARK: - Keys

    private static func keys(
        of tokens: ArraySlice<UInt32>, extras: Extras, from start: SequencePoint,
        hasher: RequestKeyHasher
    ) -> [UInt64] {
        var chain = hasher.chain(after: start.key)
        return tokens.withUnsafeBufferPointer { buffer in
            let tokens = buffer.span
            guard !extras.isEmpty else { return chain.append(tokens) }
            let blockSize = hasher.blockSize
            return Array(capacity: tokens.count / blockSize) { keys in
                for block in 0..<tokens.count / blockSize {
                    let span = block * blockSize..<(block + 1) * blockSize
                    var list = multimodal(of: extras, in: span)
                    if block == 0, let salt = extras.cacheSalt { list.append(salt) }
                    chain.append(
                        tokens.extracting(span), extraKeys: hasher.extraKeys(list), to: &keys)
                }
            }
        }
    }

    /// The items that overlap some tokens, each once.
    private static func multimodal(of extras: Extras, in span: Range<Int>) -> [String] {
        var list: [String] = []
        // Items end where their engine block ends, so their ends are in order: skip by bisection.
        var (low, high) = (0, extras.items.count)
        while low < high {
            let middle = (low + high) / 2
            if extras.items[middle].range.upperBound <= span.lowerBound {
                low = middle + 1
            } else {
                high = middle
            }
        }
        for item in extras.items[low...] {
            guard item.range.lowerBound < span.upperBound else { break }
            if item.isContinued, list.contains(item.value) { continue }
            list.append(item.value)
        }
        return list
    }

    /// Sorts an event's extra keys by what they are: the first that equals the adapter's name is
    /// the adapter, which the root covers; the last bare one of a first block is the salt; the
    /// rest are multimodal items.
    private static func extras(
        of stored: BlocksStored, in batch: KVEventBatch, from start: SequencePoint
    ) -> Extras {
        var extras = Extras()
        let tailCount = start.tail?.tokens.count ?? 0
        if let tail = start.tail {
            extras.cacheSalt = tail.cacheSalt
            extras.items = tail.multimodal.map { (0..<tailCount, false, $0) }
        }
        let list = batch.extraKeys[stored.extraKeys]
        var previousBlock = -1
        for (index, extra) in zip(list.indices, list) {
            let isFirst = extra.block != previousBlock
            previousBlock = extra.block
            if isFirst, extra.offset == nil, extra.value == stored.loraName { continue }
            let isLast = index + 1 == list.endIndex || list[index + 1].block != extra.block
            if start.isStart, extra.block == 0, isLast, extra.offset == nil {
                extras.cacheSalt = extra.value
                continue
            }
            let first = tailCount + extra.block * stored.blockSize
            let offset = min(max(extra.offset ?? 0, 0), stored.blockSize - 1)
            extras.items.append(
                (first + offset..<first + stored.blockSize, (extra.offset ?? -1) < 0, extra.value))
        }
        if start.isStart, let salt = stored.cacheSalt { extras.cacheSalt = salt }
        return extras
    }
}
