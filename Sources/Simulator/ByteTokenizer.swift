/// The tokenizer of the simulated model: one token for each byte of UTF-8, as ByT5 has it. Token
/// ids are the byte plus 3; 0 pads, 1 ends a sequence, 2 is unknown. It loses nothing, so that a
/// reply sent back in the next turn has the tokens that were generated.
public enum ByteTokenizer {
    /// Ends a sequence.
    public static let endOfSequence: UInt32 = 1
    /// The id of byte 0.
    public static let firstByte: UInt32 = 3
    /// The first id that stands for nothing.
    public static let vocabularySize = firstByte + 256

    /// Appends the tokens of `text`.
    public static func encode(_ text: some Sequence<UInt8>, into tokens: inout [UInt32]) {
        for byte in text { tokens.append(token(of: byte)) }
    }

    /// The token of one byte.
    package static func token(of byte: UInt8) -> UInt32 { UInt32(byte) + firstByte }

    /// The tokens of `text`.
    public static func encode(_ text: String) -> [UInt32] {
        var tokens: [UInt32] = []
        tokens.reserveCapacity(text.utf8.count)
        encode(text.utf8, into: &tokens)
        return tokens
    }

    /// The text of `tokens`. Special tokens have none; an id that is no byte, such as a synthetic
    /// one, becomes U+FFFD, as bytes that are no UTF-8 do.
    public static func decode(_ tokens: some Sequence<UInt32>) -> String {
        var bytes: [UInt8] = []
        for token in tokens {
            switch token {
            case ..<firstByte: continue
            case ..<vocabularySize: bytes.append(UInt8(token - firstByte))
            default: bytes.append(contentsOf: "\u{fffd}".utf8)
            }
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The text of one token as `/tokenize` shows it with `return_token_strs`.
    public static func name(of token: UInt32) -> String {
        switch token {
        case 0: "<pad>"
        case endOfSequence: "</s>"
        case ..<firstByte: "<unk>"
        default: decode(CollectionOfOne(token))
        }
    }
}

/// The chat template of the simulated model, in the manner of ChatML: for each message
/// `<|im_start|>ROLE`, a newline, the content, `<|im_end|>` and a newline; then, for the reply,
/// `<|im_start|>assistant` and a newline.
public enum ChatTemplate {
    /// One message of a conversation.
    public struct Message: Equatable, Sendable {
        /// Who speaks: `system`, `user`, `assistant` or any other name.
        public var role: String
        /// What is said.
        public var content: String

        /// Makes a message.
        public init(role: String, content: String) {
            self.role = role
            self.content = content
        }
    }

    /// The prompt for the next reply; without `addGenerationPrompt`, the conversation alone.
    public static func render(_ messages: [Message], addGenerationPrompt: Bool = true) -> String {
        var prompt = ""
        for message in messages {
            prompt += "<|im_start|>\(message.role)\n\(message.content)<|im_end|>\n"
        }
        return addGenerationPrompt ? prompt + "<|im_start|>assistant\n" : prompt
    }
}
