/// Why a reply ended, by the OpenAI API's names.
package enum FinishReason: String, Sendable {
    case stop
    case length
}

/// Everything that the model will say to one request: known in full from the start, shown token by
/// token.
package struct Reply: Sendable {
    /// What a request asks of its reply.
    package struct Limits: Sendable {
        /// The most tokens to generate, at least 1.
        package var maxTokens: Int
        /// Tokens before which the reply does not end by itself or by a stop string.
        package var minTokens = 0
        /// Whether to go on to `maxTokens` where the reply would end by itself.
        package var ignoresEndOfSequence = false
        /// Texts that end the reply. None is empty.
        package var stop: [String] = []
        /// Tokens that end the reply.
        package var stopTokens: Set<UInt32> = []
        /// Whether the stop string or token found is part of the reply.
        package var includesStop = false

        /// A reply of at most `maxTokens`.
        package init(maxTokens: Int) {
            self.maxTokens = maxTokens
        }
    }

    /// What of a request's stop conditions ended a reply.
    package enum StopReason: Equatable, Sendable {
        case text(String)
        case token(UInt32)
    }

    /// The text, a byte for each token but that which ends the sequence.
    package let text: [UInt8]
    /// Tokens generated, with that which ends the sequence.
    package let tokenCount: Int
    /// Bytes of ``text`` that the client is to see.
    package let shownCount: Int
    /// Why it ends.
    package let finishReason: FinishReason
    /// The stop string or token that ended it.
    package let stopReason: StopReason?
    /// Bytes that are withheld while they may be the start of a stop string.
    private let withheldCount: Int

    /// Makes up a reply within `limits`.
    package init(_ limits: Limits, _ generator: inout SeededGenerator) {
        let natural = max(
            OutputGenerator.naturalLength(&generator), limits.minTokens + 1)
        let endsBySelf = !limits.ignoresEndOfSequence && natural <= limits.maxTokens
        let said = OutputGenerator.text(
            count: endsBySelf ? natural - 1 : limits.maxTokens, &generator)
        withheldCount = max((limits.stop.map(\.utf8.count).max() ?? 0) - 1, 0)

        let texts = limits.stop.compactMap { stop in
            said.end(of: Array(stop.utf8), after: limits.minTokens)
                .map { (end: $0, length: stop.utf8.count, reason: StopReason.text(stop)) }
        }
        let token = said.indices.dropFirst(limits.minTokens)
            .first { limits.stopTokens.contains(ByteTokenizer.token(of: said[$0])) }
            .map { index in
                let reason = StopReason.token(ByteTokenizer.token(of: said[index]))
                return (end: index + 1, length: 1, reason: reason)
            }
        // vLLM looks for tokens first.
        if let match = ([token].compactMap(\.self) + texts).min(by: { $0.end < $1.end }) {
            text = Array(said.prefix(match.end))
            tokenCount = match.end
            shownCount = limits.includesStop ? match.end : match.end - match.length
            finishReason = .stop
            stopReason = match.reason
        } else {
            text = said
            tokenCount = endsBySelf ? natural : limits.maxTokens
            shownCount = said.count
            finishReason = endsBySelf ? .stop : .length
            stopReason = nil
        }
    }

    /// Bytes of ``text`` that the client sees once `count` tokens are generated.
    package func shownCount(afterTokens count: Int) -> Int {
        count == tokenCount ? shownCount : min(max(count - withheldCount, 0), shownCount)
    }

    /// The token at a place in the reply.
    package func token(at index: Int) -> UInt32 {
        index < text.count ? ByteTokenizer.token(of: text[index]) : ByteTokenizer.endOfSequence
    }
}

extension [UInt8] {
    /// Where the first occurrence of `pattern` ends that ends after place `after`.
    fileprivate func end(of pattern: [UInt8], after: Int) -> Int? {
        guard count >= pattern.count else { return nil }
        return (Swift.max(after + 1, pattern.count)..<count + 1).first {
            self[($0 - pattern.count)..<$0].elementsEqual(pattern)
        }
    }
}
