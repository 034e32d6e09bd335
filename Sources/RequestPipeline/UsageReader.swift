import Scan

/// Finds the token counts of a response while it passes by, whether JSON or server-sent events.
///
/// All carry `usage` near their end (OpenAI: the last event but `[DONE]`, or the one that completes
/// a response; Anthropic: `message_delta`), so the last bytes are kept and read once, at the end.
/// Anthropic's streams tell of the prompt in their first event, so their first bytes are kept, too.
struct UsageReader {
    /// What the response says of its tokens.
    struct Usage: Equatable {
        var promptTokens: Int?
        var completionTokens: Int?
        var cachedTokens: Int?
    }

    /// Kept of a response; a usage object and what follows it are far shorter.
    static let tailBytes = 4096

    private var head: [UInt8] = []
    private var tail: [UInt8] = []
    private let keepsHead: Bool

    /// With `keepsHead` what the last usage leaves open is taken from the first one, if that stands
    /// at the response's start.
    init(keepsHead: Bool = false) {
        self.keepsHead = keepsHead
    }

    /// Adds a piece of the response.
    mutating func append(_ bytes: UnsafeRawBufferPointer) {
        if keepsHead, head.count < Self.tailBytes {
            head.append(contentsOf: bytes.prefix(Self.tailBytes - head.count))
        }
        if tail.count + bytes.count > 2 * Self.tailBytes {
            let kept = max(0, Self.tailBytes - bytes.count)
            tail.removeFirst(max(0, tail.count - kept))
        }
        tail.append(contentsOf: bytes.suffix(2 * Self.tailBytes))
    }

    /// The last usage in the response; nil if it has none.
    func usage() -> Usage? {
        let last = Self.usage(in: tail, atFirstOf: tail.indices.reversed())
        guard keepsHead else { return last }
        let first = Self.usage(in: head, atFirstOf: head.indices)
        guard var usage = last ?? first else { return nil }
        usage.promptTokens = usage.promptTokens ?? first?.promptTokens
        usage.cachedTokens = usage.cachedTokens ?? first?.cachedTokens
        return usage
    }

    private static let key = Array("\"usage\":".utf8)

    private static func usage(
        in text: [UInt8], atFirstOf places: some Sequence<Int>
    ) -> Usage? {
        for place in places where isKey(in: text, at: place) {
            if let usage = read(object: text[(place + key.count)...]) { return usage }
        }
        return nil
    }

    private static func isKey(in text: [UInt8], at place: Int) -> Bool {
        place + key.count <= text.count
            && key.indices.allSatisfy { text[place + $0] == key[$0] }
    }

    private static func read(object text: ArraySlice<UInt8>) -> Usage? {
        let text = text.drop { $0 == UInt8(ascii: " ") }
        guard text.first == UInt8(ascii: "{"), let end = endOfObject(text),
            let document = try? JSONDocument.parse(Array(text[..<end]))
        else { return nil }
        let details = document["prompt_tokens_details"] ?? document["input_tokens_details"]
        return Usage(
            promptTokens: (document["prompt_tokens"] ?? document["input_tokens"])?.int,
            completionTokens: (document["completion_tokens"] ?? document["output_tokens"])?.int,
            cachedTokens: (details?["cached_tokens"] ?? document["cache_read_input_tokens"])?.int)
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
