import Scan

/// The log probabilities of tokens that follow one another in a reply.
///
/// The simulated model is certain of every token: what it says has the probability 1, everything
/// else 0, whose logarithm vLLM writes as -9999.
package struct TokenLogprobs: Sendable {
    /// The tokens that were said.
    package var tokens: [UInt32]
    /// The place of the first of them in the reply.
    package var start: Int
    /// How many of the likeliest tokens to list at each place.
    package var topCount: Int

    /// The most that may be listed; vLLM's `--max-logprobs`.
    package static let maximumTopCount = 20

    /// What `logprobs` of a choice says, in the form of the API. Every token of a reply is one
    /// character, so that places in the text are those of the tokens.
    func write(_ api: GenerationAPI, to json: inout JSONWriter) {
        json.beginObject()
        switch api {
        case .completions:
            json.key("text_offset")
            json.array(Array(start..<start + tokens.count))
            json.key("token_logprobs")
            json.beginArray()
            for _ in tokens { json.double(Self.certain) }
            json.endArray()
            json.key("tokens")
            json.beginArray()
            for token in tokens { json.string(ByteTokenizer.name(of: token)) }
            json.endArray()
            json.key("top_logprobs")
            json.beginArray()
            for token in tokens {
                json.beginObject()
                // vLLM lists the token itself, whatever the count.
                for (token, logprob) in likeliest(max(topCount, 1), token) {
                    json.member(ByteTokenizer.name(of: token), logprob)
                }
                json.endObject()
            }
            json.endArray()
        case .chat:
            json.key("content")
            json.beginArray()
            for token in tokens {
                json.beginObject()
                write(token, Self.certain, to: &json)
                json.key("top_logprobs")
                json.beginArray()
                for (token, logprob) in likeliest(topCount, token) {
                    json.beginObject()
                    write(token, logprob, to: &json)
                    json.endObject()
                }
                json.endArray()
                json.endObject()
            }
            json.endArray()
        }
        json.endObject()
    }

    private func write(_ token: UInt32, _ logprob: Double, to json: inout JSONWriter) {
        let name = ByteTokenizer.name(of: token)
        json.member("token", name)
        json.member("logprob", logprob)
        json.key("bytes")
        json.array(name.utf8.map { Int($0) })
    }

    private static let certain = 0.0
    private static let impossible = -9999.0

    /// The token itself and, all as unlikely, the letters that it is not.
    private func likeliest(_ count: Int, _ token: UInt32) -> [(token: UInt32, logprob: Double)] {
        let letters = "abcdefghijklmnopqrstuvwxyz".utf8.lazy.map(ByteTokenizer.token(of:))
            .filter { $0 != token }
        let all =
            CollectionOfOne((token: token, logprob: Self.certain))
            + letters.prefix(max(count - 1, 0)).map { (token: $0, logprob: Self.impossible) }
        return Array(all.prefix(count))
    }
}
