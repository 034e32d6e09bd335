import Scan
import Scheduling

extension JSONDocument {
    /// The images, videos and audio clips of a body of `api`, each once.
    func mediaItems(_ api: RequestAPI) -> [MediaItem] {
        var items: [MediaItem] = []
        switch api {
        case .chat, .messages, .embeddings: self["messages"]?.addMedia(to: &items)
        case .responses: self["input"]?.addMedia(to: &items)
        case .generate:
            guard let hashes = self["features"]?["mm_hashes"] else { break }
            for (name, list) in hashes.members {
                guard let kind = MediaItem.Kind(rawValue: name) else { continue }
                for hash in list.elements { items.addOnce(kind, hash) }
            }
        case .completions, .named, .opaque: break
        }
        return items
    }
}

extension JSONValue {
    /// The parts of messages that are media, where their content is named, and their kinds: those
    /// of OpenAI's chats and vLLM's, of OpenAI's responses, and of Anthropic's messages.
    private static let mediaParts: [(type: String, member: String, kind: MediaItem.Kind)] = [
        ("image_url", "image_url", .image), ("video_url", "video_url", .video),
        ("audio_url", "audio_url", .audio), ("input_audio", "input_audio", .audio),
        ("input_image", "image_url", .image), ("image", "source", .image),
    ]

    /// Adds the media in a list of messages, or of parts of one.
    fileprivate func addMedia(to items: inout [MediaItem]) {
        guard kind == .array else { return }
        for element in elements {
            if let type = element["type"],
                let part = Self.mediaParts.first(where: { type.equals($0.type) })
            {
                if let value = element[part.member] { items.addOnce(part.kind, value) }
            } else {
                // Of a message, or of the result of a tool.
                element["content"]?.addMedia(to: &items)
            }
        }
    }
}

extension [MediaItem] {
    fileprivate mutating func addOnce(_ kind: MediaItem.Kind, _ value: JSONValue) {
        // `{"url": …}` of images and videos, `{"data": …}` of audio and images, or plain text.
        let source = (value["url"] ?? value["data"] ?? value).rawBytes
        let item = MediaItem(kind: kind, identifier: source.contentHash)
        if !contains(item) { append(item) }
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
