import Scan

/// Finds the token counts of a response while it passes by, whether JSON or server-sent events.
///
/// Both carry `usage` near their end (the last event but `[DONE]`), so the last bytes are kept
/// and read once, at the end.
struct UsageReader {
    /// What the response says of its tokens.
    struct Usage: Equatable {
        var promptTokens: Int?
        var completionTokens: Int?
        var cachedTokens: Int?
    }

    /// Kept of a response; a usage object and what follows it are far shorter.
    static let tailBytes = 4096

    private var tail: [UInt8] = []

    /// Adds a piece of the response.
    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        if tail.count + bytes.count > 2 * Self.tailBytes {
            let kept = max(0, Self.tailBytes - bytes.count)
            tail.removeFirst(max(0, tail.count - kept))
        }
        tail.append(contentsOf: bytes.suffix(2 * Self.tailBytes))
    }

    /// The last usage in the response; nil if it has none.
    func usage() -> Usage? {
        let key = Array("\"usage\":".utf8)
        var at = tail.count - key.count
        while at >= 0 {
            if tail[at] == key[0], tail[at..<(at + key.count)].elementsEqual(key),
                let usage = Self.read(object: tail[(at + key.count)...])
            {
                return usage
            }
            at -= 1
        }
        return nil
    }

    private static func read(object text: ArraySlice<UInt8>) -> Usage? {
        let text = text.drop { $0 == UInt8(ascii: " ") }
        guard text.first == UInt8(ascii: "{"), let end = endOfObject(text),
            let document = try? JSONDocument.parse(Array(text[..<end]))
        else { return nil }
        return Usage(
            promptTokens: document["prompt_tokens"]?.int,
            completionTokens: document["completion_tokens"]?.int,
            cachedTokens: document["prompt_tokens_details"]?["cached_tokens"]?.int)
    }

    /// Behind the closing brace; strings in a usage hold no braces.
    private static func endOfObject(_ text: ArraySlice<UInt8>) -> Int? {
        var depth = 0
        for (index, byte) in zip(text.indices, text) {
            if byte == UInt8(ascii: "{") { depth += 1 }
            if byte == UInt8(ascii: "}") {
                depth -= 1
                if depth == 0 { return index + 1 }
            }
        }
        return nil
    }
}
