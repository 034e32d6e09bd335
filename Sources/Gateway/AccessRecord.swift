internal import Core

/// What the access log tells of one request. No query, header or body of it is in there.
package struct AccessRecord {
    package var requestID = ""
    package var client: String?
    package var method: String
    package var path: String
    /// The model that was asked for.
    package var model: String?
    /// The name of the API key.
    package var key: String?
    /// Of the response; nil if there was none.
    package var status: Int?
    /// Who served, by name.
    package var endpoint: String?
    /// Who computed the prompt, by name, if that was another one.
    package var prefill: String?
    package var bytesIn = 0
    package var bytesOut = 0
    package var firstByte: Duration?
    package var duration = Duration.zero
    package var promptTokens: Int?
    package var completionTokens: Int?
    package var cachedTokens: Int?
    /// Why it was refused or broken off.
    package var reason: String?

    package init(method: String, path: String) {
        self.method = method
        self.path = path
    }

    /// Longer texts of a client's are cut.
    package static let maximumTextBytes = 512

    /// One JSON object and a line feed. Fields that are not known are left out.
    package func line(at time: String) -> [UInt8] {
        var line = #"{"time":"\#(time)""#
        func text(_ name: String, _ value: String?) {
            guard var value else { return }
            if value.utf8.count > Self.maximumTextBytes {
                value = String(decoding: value.utf8.prefix(Self.maximumTextBytes), as: UTF8.self)
            }
            line += #","\#(name)":"\#(value.jsonEscaped)""#
        }
        func number(_ name: String, _ value: Int?) {
            if let value { line += #","\#(name)":\#(value)"# }
        }
        func milliseconds(_ name: String, _ value: Duration?) {
            guard let value else { return }
            let micros = max(0, value.nanoseconds / 1000)
            let decimals = String(micros % 1000 + 1000).dropFirst()
            line += #","\#(name)":\#(micros / 1000).\#(decimals)"#
        }
        text("request_id", requestID)
        text("client", client)
        text("method", method)
        text("path", path)
        text("model", model)
        text("key", key)
        number("status", status)
        text("endpoint", endpoint)
        text("prefill", prefill)
        number("bytes_in", bytesIn)
        number("bytes_out", bytesOut)
        milliseconds("first_byte_ms", firstByte)
        milliseconds("duration_ms", duration)
        number("prompt_tokens", promptTokens)
        number("completion_tokens", completionTokens)
        number("cached_tokens", cachedTokens)
        text("reason", reason)
        return Array((line + "}\n").utf8)
    }
}
