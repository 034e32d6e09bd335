import Scan
import Scheduling

extension JSONDocument {
    /// The images, videos and audio clips of the chat messages in the body, each once.
    func mediaItems() -> [MediaItem] {
        var items: [MediaItem] = []
        guard let messages = self["messages"], messages.kind == .array else { return [] }
        for message in messages.elements {
            guard let content = message["content"], content.kind == .array else { continue }
            for part in content.elements {
                guard let item = part.mediaItem(), !items.contains(item) else { continue }
                items.append(item)
            }
        }
        return items
    }
}

extension JSONValue {
    /// The parts of messages that are media, and their kinds (OpenAI and vLLM).
    private static let mediaParts: [(type: String, kind: MediaItem.Kind)] = [
        ("image_url", .image), ("video_url", .video), ("audio_url", .audio),
        ("input_audio", .audio),
    ]

    fileprivate func mediaItem() -> MediaItem? {
        guard let type = self["type"],
            let part = Self.mediaParts.first(where: { type.equals($0.type) }),
            let value = self[part.type]
        else { return nil }
        // `{"url": …}` of images and videos, `{"data": …}` of audio, or a plain URL.
        let source = (value["url"] ?? value["data"] ?? value).rawBytes
        return MediaItem(kind: part.kind, identifier: source.contentHash)
    }
}

extension ArraySlice<UInt8> {
    /// Equal contents have equal hashes (FNV-1a of words, mixed at the end). Not for secrets.
    fileprivate var contentHash: UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        var word: UInt64 = 0
        var filled = 0
        for byte in self {
            word = word << 8 | UInt64(byte)
            filled += 1
            if filled == 8 {
                hash = (hash ^ word) &* 0x100_0000_01b3
                hash ^= hash >> 32
                (word, filled) = (0, 0)
            }
        }
        hash = (hash ^ word ^ UInt64(count) << 56) &* 0x9e37_79b9_7f4a_7c15
        return hash ^ hash >> 29
    }
}
