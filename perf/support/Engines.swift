public import Core
public import Net

/// Model servers that answer at once, to stand behind what is measured, and requests for them.
public enum Engines {
    /// Bytes of one event of a streamed answer.
    public static let event = Array(
        ("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
            + "\"model\":\"llmd-sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" hello\"},"
            + "\"finish_reason\":null}]}\n\n").utf8)
    /// Events of one streamed answer.
    public static let eventCount = 200
    /// A whole answer.
    public static let answer =
        "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":"
        + "\"llmd-sim\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        + "\" hello world\"},\"finish_reason\":\"length\"}],\"usage\":{\"prompt_tokens\":512,"
        + "\"total_tokens\":514,\"completion_tokens\":2}}"

    private static let page = """
        vllm:num_requests_running{model_name="llmd-sim"} 1
        vllm:num_requests_waiting{model_name="llmd-sim"} 0
        vllm:kv_cache_usage_perc{model_name="llmd-sim"} 0.25

        """
    private static let models = #"{"object":"list","data":[{"id":"llmd-sim","object":"model"}]}"#

    /// The body of a chat whose one message has text of so many bytes.
    public static func chat(textBytes: Int) -> [UInt8] {
        let words = "The quick brown fox jumps over the lazy dog, and then it does so again. "
        let text = String(repeating: words, count: textBytes / words.count + 1).prefix(textBytes)
        let message = #"{"role":"user","content":"\#(text)"}"#
        return Array(#"{"model":"llmd-sim","max_tokens":16,"messages":[\#(message)]}"#.utf8)
    }

    /// The body of a completion whose prompt is so many token ids.
    public static func completion(tokenCount: Int) -> [UInt8] {
        let ids = tokenIDs(tokenCount)
        return Array(#"{"model":"llmd-sim","max_tokens":16,"prompt":\#(ids)}"#.utf8)
    }

    /// A JSON array of ids of four digits.
    private static func tokenIDs(_ count: Int) -> String {
        "[" + (0..<count).map { String(1000 + $0 * 7919 % 9000) }.joined(separator: ",") + "]"
    }

    /// The body of a completion whose answer is streamed.
    public static let streamedCompletion = Array(
        #"{"model":"llmd-sim","max_tokens":200,"stream":true,"prompt":"Count to 200."}"#.utf8)

    /// Starts so many servers. A chat gets ``answer``, a completion ``eventCount`` events, one
    /// every 2 ms; who asks for the tokens of a chat gets so many.
    public static func start(
        _ count: Int, on group: EventLoopGroup, renderedTokenCount: Int = 1000
    ) throws -> [SocketAddress] {
        let rendered = #"{"token_ids":\#(tokenIDs(renderedTokenCount))}"#
        return try (0..<count).map { _ in
            try HTTPServer.listen(on: group, at: SocketAddress(host: "127.0.0.1", port: 0)) {
                exchange in
                switch exchange.head.path {
                case "/metrics": exchange.respond(HTTPResponseHead(status: 200), text: page)
                case "/v1/chat/completions/render": return Answer(rendered)
                case "/v1/models": exchange.respond(HTTPResponseHead(status: 200), text: models)
                case "/v1/completions": return Answer(nil)
                default: return Answer(answer)
                }
                return nil
            }.address
        }
    }

    private final class Answer: ServerExchangeDelegate {
        /// The whole answer; nil: events.
        private let text: String?
        private var left = eventCount
        private var timer: Timer?

        init(_ text: String?) {
            self.text = text
        }

        func exchangeReceivedEnd(_ exchange: ServerExchange) {
            if let text {
                exchange.respond(
                    HTTPResponseHead(status: 200, headers: ["content-type": "application/json"]),
                    text: text)
                return
            }
            exchange.respond(
                HTTPResponseHead(status: 200, headers: ["content-type": "text/event-stream"]))
            timer = exchange.loop.schedule(every: .milliseconds(2)) { [unowned self] in
                exchange.write(event)
                left -= 1
                if left == 0 { exchange.finish() }
            }
        }

        func exchangeClosed(_ exchange: ServerExchange, _ reason: ExchangeEnd) {
            timer?.cancel()
        }
    }
}
