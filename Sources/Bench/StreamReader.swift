package import Core
import Scan

/// Follows one streamed completion: when its tokens came, what it used, whether it ended well.
///
/// Fed with the bytes of a `text/event-stream` body (HTML Living Standard, server-sent events, as
/// OpenAI servers use them: one `data:` line per event), cut anywhere.
package struct StreamReader {
    /// When the first event with a token came.
    package private(set) var firstTokenAt: MonotonicTime?
    /// The prompt's tokens, from the usage event.
    package private(set) var promptTokens = 0
    /// The generated tokens, from the usage event.
    package private(set) var completionTokens = 0
    /// Whether `[DONE]` came.
    package private(set) var isDone = false
    /// What the server said went wrong after it had begun to answer.
    package private(set) var failure: String?

    private var pending: [UInt8] = []

    /// Nothing received yet.
    package init() {}

    /// Takes the next bytes of the body, received at `now`.
    package mutating func feed(_ bytes: UnsafeRawBufferPointer, now: MonotonicTime) {
        var rest = bytes[...]
        // The blank line may be cut between its two line feeds.
        if pending.last == Self.lineFeed, rest.first == Self.lineFeed {
            finishPending(now)
            rest = rest.dropFirst()
        }
        while let end = Self.endOfEvent(rest) {
            let event = rest[..<end]
            if pending.isEmpty {
                take(UnsafeRawBufferPointer(rebasing: event), now)
            } else {
                pending.append(contentsOf: event)
                finishPending(now)
            }
            rest = rest[end...]
        }
        pending.append(contentsOf: rest)
    }

    private static let lineFeed = UInt8(ascii: "\n")

    private mutating func finishPending(_ now: MonotonicTime) {
        let event = pending
        pending.removeAll(keepingCapacity: true)
        event.withUnsafeBytes { take($0, now) }
    }

    /// The place behind the first blank line.
    private static func endOfEvent(_ bytes: Slice<UnsafeRawBufferPointer>) -> Int? {
        var at = bytes.startIndex
        while let feed = bytes[at...].firstIndex(of: lineFeed) {
            at = feed + 1
            if at < bytes.endIndex, bytes[at] == lineFeed { return at + 1 }
        }
        return nil
    }

    private mutating func take(_ event: UnsafeRawBufferPointer, _ now: MonotonicTime) {
        let prefix = Array("data: ".utf8)
        guard event.starts(with: prefix) else { return }
        var payload = event.dropFirst(prefix.count)
        while payload.last == Self.lineFeed { payload.removeLast() }
        if payload.elementsEqual("[DONE]".utf8) {
            isDone = true
            return
        }
        if firstTokenAt == nil { firstTokenAt = now }
        // Tokens are many, these events are one each: only they are parsed.
        let text = UnsafeRawBufferPointer(rebasing: payload)
        guard Self.contains(text, "\"usage\":{") || Self.contains(text, "\"error\":{") else {
            return
        }
        guard let document = try? JSONDocument.parse([UInt8](text)) else { return }
        if let usage = document.root["usage"] {
            promptTokens = usage["prompt_tokens"]?.int ?? promptTokens
            completionTokens = usage["completion_tokens"]?.int ?? completionTokens
        }
        if let error = document.root["error"] {
            failure = error["message"]?.string ?? "error event"
        }
    }

    private static func contains(_ text: UnsafeRawBufferPointer, _ part: StaticString) -> Bool {
        let count = part.utf8CodeUnitCount
        guard text.count >= count else { return false }
        let pattern = UnsafeRawBufferPointer(start: part.utf8Start, count: count)
        // Starting from the end: usage and errors stand in the tail of short events.
        var at = text.count - count
        while at >= 0 {
            if text[at] == pattern[0],
                UnsafeRawBufferPointer(rebasing: text[at..<(at + count)]).elementsEqual(pattern)
            {
                return true
            }
            at -= 1
        }
        return false
    }
}
