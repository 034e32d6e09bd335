/// The name of one request in logs, traces and at every server that it passes (`x-request-id`).
public struct RequestID: Hashable, Sendable, CustomStringConvertible {
    /// 1 to 128 visible ASCII characters.
    public let text: String

    /// A new random one, in the form of a version 4 UUID (RFC 9562 section 5.4).
    public init() {
        let words = randomWords()
        let high = words.0 & ~0xf000 | 0x4000
        let low = words.1 & ~(3 << 62) | 2 << 62
        text = String(unsafeUninitializedCapacity: 36) { out in
            var written = 0
            for position in 0..<32 {
                if [8, 12, 16, 20].contains(position) {
                    out[written] = UInt8(ascii: "-")
                    written += 1
                }
                let half = position < 16 ? high : low
                let digit = UInt8(truncatingIfNeeded: half >> (60 - position % 16 * 4)) & 15
                out[written] = hexDigit(digit)
                written += 1
            }
            return written
        }
    }

    /// The one that a client sent; a new one if it sent none, or one that is too long or holds
    /// other than visible ASCII.
    public init(header: String?) {
        guard let header, (1...128).contains(header.utf8.count),
            header.utf8.allSatisfy({ (0x21...0x7e).contains($0) })
        else {
            self.init()
            return
        }
        self.init(text: header)
    }

    private init(text: String) {
        self.text = text
    }

    /// The text.
    public var description: String { text }
}

/// The lower-case digit of a number below 16.
func hexDigit(_ value: UInt8) -> UInt8 {
    value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
}
