import Scheduling

/// The members of a body that are its prompt.
enum PromptMembers {
    /// A text, token ids, or a list of either, of which the first counts.
    case prompt(String)
    /// A text or a list of messages, behind others that are part of the prompt, too: what stays
    /// from turn to turn, tools and instructions, comes first.
    case messages(String, behind: [String])
}

extension RequestAPI {
    /// Where the prompt stands in a body; nil if it has none, or it depends on what else is there.
    var promptMembers: PromptMembers? {
        switch self {
        case .completions: .prompt("prompt")
        case .chat: .messages("messages", behind: ["tools"])
        case .responses: .messages("input", behind: ["tools", "instructions"])
        case .messages: .messages("messages", behind: ["tools", "system"])
        case .generate: .prompt("token_ids")
        case .embeddings, .named, .opaque: nil
        }
    }
}
