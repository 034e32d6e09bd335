import Core

/// Prompts of which Redis is to be asked, part by part. Loop-bound.
struct PromptQueue {
    private struct Prompt {
        var keys: [UInt64]
        /// How far it was asked for.
        var next = 0
    }

    /// Blocks of one question, and those of one prompt among them.
    private static let maximumQuestionCount = 1024
    private static let partCount = 256

    private var prompts: [Prompt] = []

    var isEmpty: Bool { prompts.isEmpty }

    mutating func append(_ new: [[UInt64]]) { prompts += new.map { Prompt(keys: $0) } }

    /// The blocks to ask for next, each once; none when no prompt needs to be asked for any more.
    mutating func takeQuestion(
        asking imported: inout ImportedBlocks, at now: MonotonicTime
    ) -> [UInt64] {
        var question: [UInt64] = []
        var left: [Prompt] = []
        for var prompt in prompts {
            if question.count >= Self.maximumQuestionCount
                || Self.hasMore(&prompt, adding: &question, &imported, now)
            {
                left.append(prompt)
            }
        }
        prompts = left
        return question
    }

    /// Adds the next part of a prompt. Whether there is more.
    private static func hasMore(
        _ prompt: inout Prompt, adding question: inout [UInt64], _ imported: inout ImportedBlocks,
        _ now: MonotonicTime
    ) -> Bool {
        // A block that nobody holds ends what can match.
        if prompt.next > 0, !imported.isListed(prompt.keys[prompt.next - 1]) { return false }
        var count = 0
        while prompt.next < prompt.keys.count, count < partCount {
            let key = prompt.keys[prompt.next]
            switch imported.ask(key, at: now) {
            case .known(isListed: false): return false
            case .known: break
            case .due:
                question.append(key)
                count += 1
            }
            prompt.next += 1
        }
        return prompt.next < prompt.keys.count
    }
}
