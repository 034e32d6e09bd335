import Foundation
import Simulator
import Testing

@Suite struct ByteTokenizerTests {
    @Test(arguments: ["", "Hello", "Grüße, 世界 \u{1F30D}\n\0"])
    func nothingIsLost(text: String) {
        let tokens = ByteTokenizer.encode(text)
        #expect(tokens.count == text.utf8.count)
        #expect(tokens.allSatisfy { $0 >= 3 && $0 < 259 })
        #expect(ByteTokenizer.decode(tokens) == text)
    }

    @Test func idsAreByT5s() {
        #expect(ByteTokenizer.encode("A\u{0}") == [68, 3])
        #expect(ByteTokenizer.decode([0, 1, 68, 2]) == "A")
        #expect(ByteTokenizer.decode([68, 1_000_000]) == "A\u{fffd}")
        #expect(ByteTokenizer.name(of: 1) == "</s>")
    }

    @Test func chatTemplate() {
        let messages = [
            ChatTemplate.Message(role: "system", content: "Be brief."),
            ChatTemplate.Message(role: "user", content: "Hi"),
        ]
        #expect(
            ChatTemplate.render(messages)
                == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
                + "<|im_start|>assistant\n")
        #expect(
            ChatTemplate.render([messages[1]], addGenerationPrompt: false)
                == "<|im_start|>user\nHi<|im_end|>\n")
    }
}

@Suite struct ReplyTests {
    private func reply(_ limits: Reply.Limits, prompt: UInt64 = 1, seed: UInt64 = 2, index: Int = 0)
        -> Reply
    {
        var generator = OutputGenerator.generator(prompt: prompt, seed: seed, index: index)
        return Reply(limits, &generator)
    }

    private func text(_ reply: Reply) -> String { String(decoding: reply.text, as: UTF8.self) }

    @Test func sameSourceSameReply() {
        let limits = Reply.Limits(maxTokens: 100)
        #expect(text(reply(limits)) == text(reply(limits)))
        #expect(text(reply(limits)) != text(reply(limits, prompt: 2)))
        #expect(text(reply(limits)) != text(reply(limits, seed: 3)))
        #expect(text(reply(limits)) != text(reply(limits, index: 1)))
    }

    @Test func readsAsTextAndNeedsNoEscapes() {
        var limits = Reply.Limits(maxTokens: 4000)
        limits.ignoresEndOfSequence = true
        let reply = reply(limits)
        #expect(reply.text.count == 4000 && reply.tokenCount == 4000)
        #expect(
            reply.text.allSatisfy {
                ($0 >= UInt8(ascii: "a") && $0 <= UInt8(ascii: "z")) || " .".utf8.contains($0)
            })
        #expect(Set(text(reply).split(separator: " ")).count > 100)
    }

    @Test func endsByItselfWithAnEndToken() {
        for index in 0..<50 {
            let reply = reply(Reply.Limits(maxTokens: 10_000), index: index)
            #expect(reply.finishReason == .stop && reply.stopReason == nil)
            #expect((64...192).contains(reply.tokenCount))
            #expect(reply.text.count == reply.tokenCount - 1)
            #expect(reply.shownCount == reply.text.count)
            #expect(reply.token(at: reply.tokenCount - 1) == ByteTokenizer.endOfSequence)
            #expect(reply.token(at: 0) == UInt32(reply.text[0]) + 3)
        }
    }

    @Test func lengthLimits() {
        let short = reply(Reply.Limits(maxTokens: 5))
        #expect(short.tokenCount == 5 && short.finishReason == .length)
        var limits = Reply.Limits(maxTokens: 10_000)
        limits.minTokens = 500
        #expect(reply(limits).tokenCount == 501)
        limits.ignoresEndOfSequence = true
        #expect(reply(limits).tokenCount == 10_000)
        #expect(reply(limits).finishReason == .length)
    }

    @Test func stopStringsEndTheReply() throws {
        var limits = Reply.Limits(maxTokens: 400)
        limits.ignoresEndOfSequence = true
        let full = text(reply(limits))
        let words = full.split(separator: " ")
        let (first, second) = (String(words[3]), String(words[5]))
        limits.stop = [second, first]
        let stopped = reply(limits)
        let range = try #require(full.range(of: first))
        #expect(stopped.finishReason == .stop && stopped.stopReason == .text(first))
        #expect(
            stopped.tokenCount == full.utf8.distance(from: full.startIndex, to: range.upperBound))
        #expect(stopped.shownCount == stopped.tokenCount - first.utf8.count)

        // Whatever is shown stays right: nothing of the stop string gets out on the way.
        for count in 1...stopped.tokenCount {
            #expect(stopped.shownCount(afterTokens: count) <= stopped.shownCount)
        }
        #expect(stopped.shownCount(afterTokens: stopped.tokenCount) == stopped.shownCount)

        limits.includesStop = true
        #expect(reply(limits).shownCount == stopped.tokenCount)
        limits.minTokens = stopped.tokenCount
        #expect(reply(limits).tokenCount > stopped.tokenCount)
    }

    @Test func stopTokensEndTheReply() throws {
        var limits = Reply.Limits(maxTokens: 400)
        limits.ignoresEndOfSequence = true
        let full = reply(limits)
        let token = full.token(at: 30)
        let first = try #require((0..<400).first { full.token(at: $0) == token })
        limits.stopTokens = [token, ByteTokenizer.endOfSequence]
        let stopped = reply(limits)
        #expect(stopped.finishReason == .stop && stopped.stopReason == .token(token))
        #expect(stopped.tokenCount == first + 1 && stopped.shownCount == first)
        #expect(stopped.token(at: first) == token)

        // Where a stop string ends at the same place, the token is the reason.
        let character = String(decoding: [full.text[first]], as: UTF8.self)
        limits.stop = [character]
        #expect(reply(limits).stopReason == .token(token))
        limits.includesStop = true
        #expect(reply(limits).shownCount == first + 1)
        limits.minTokens = first + 1
        #expect(reply(limits).tokenCount > first + 1)
    }
}
