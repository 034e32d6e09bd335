import Sidecar
import Testing

@Suite struct CachedTokensRewriterTests {
    @Test(arguments: [
        ("", ""),
        (#"{"cached_tokens":0}"#, #"{"cached_tokens":4711}"#),
        (#"{"cached_tokens" : 12 , "a":1}"#, #"{"cached_tokens" : 4711 , "a":1}"#),
        (#"{"cached_tokens":null,"a":1}"#, #"{"cached_tokens":4711,"a":1}"#),
        (#"{"cached_tokens":"12"}"#, #"{"cached_tokens":"12"}"#),
        (#"{"text":"\"cached_tokens\": 5"}"#, #"{"text":"\"cached_tokens\": 5"}"#),
        (#"{"text":"cached_tokens","b":5}"#, #"{"text":"cached_tokens","b":5}"#),
        (#"{"created_cache_tokens":7}"#, #"{"created_cache_tokens":7}"#),
        (#"{""cached_tokens":7}"#, #"{""cached_tokens":4711}"#),
        (
            "data: {\"cached_tokens\":3}\n\ndata: {\"cached_tokens\":4}\n\n",
            "data: {\"cached_tokens\":4711}\n\ndata: {\"cached_tokens\":4711}\n\n"
        ),
    ])
    func replacesTheNumberWhereverTheBytesAreCut(text: String, expected: String) {
        let bytes = Array(text.utf8)
        for cut in 0...bytes.count {
            for second in cut...bytes.count {
                var rewriter = CachedTokensRewriter(cachedTokens: 4711)
                var output: [UInt8] = []
                for piece in [bytes[..<cut], bytes[cut..<second], bytes[second...]] {
                    Array(piece).withUnsafeBytes { bytes in
                        rewriter.rewrite(bytes) { output.append(contentsOf: $0) }
                    }
                }
                #expect(String(decoding: output, as: UTF8.self) == expected, "\(cut) \(second)")
            }
        }
    }
}
