/// The place of a span in a distributed trace (W3C Trace Context, level 1).
public struct TraceContext: Hashable, Sendable {
    /// The trace, 128 bits; not zero.
    public let traceID: UInt128
    /// The span; not zero.
    public let spanID: UInt64
    /// Whether the caller records the trace.
    public let isSampled: Bool
    /// What vendors passed along, `tracestate`; empty if nothing.
    public let state: String

    /// Starts a trace.
    public init(isSampled: Bool) {
        let words = randomWords()
        traceID = UInt128(words.0) << 64 | UInt128(max(words.1, 1))
        spanID = max(words.2, 1)
        self.isSampled = isSampled
        state = ""
    }

    /// Reads the headers of a request; nil if `traceparent` is malformed. A `tracestate` of more
    /// than 512 bytes or 32 members is dropped, as the standard allows.
    public init?(traceparent: String, tracestate: String? = nil) {
        let text = Array(traceparent.utf8)
        let dash = UInt8(ascii: "-")
        guard text.count >= 55, text[2] == dash, text[35] == dash, text[52] == dash,
            let version: UInt8 = lowerHex(text[0..<2]), version != 0xff,
            // Only later versions may be longer, by further fields.
            text.count == 55 || (version > 0 && text[55] == dash),
            let traceID: UInt128 = lowerHex(text[3..<35]), traceID != 0,
            let spanID: UInt64 = lowerHex(text[36..<52]), spanID != 0,
            let flags: UInt8 = lowerHex(text[53..<55])
        else { return nil }
        self.traceID = traceID
        self.spanID = spanID
        isSampled = flags & 1 == 1
        state = tracestate.flatMap { isAcceptable(tracestate: $0) ? $0 : nil } ?? ""
    }

    /// A new span below this one, in the same trace.
    public func child() -> TraceContext {
        TraceContext(
            traceID: traceID, spanID: max(randomWords().0, 1), isSampled: isSampled, state: state)
    }

    /// The `traceparent` header that makes this span the parent of what the receiver does.
    public var traceparent: String {
        String(unsafeUninitializedCapacity: 55) { out in
            out.initialize(repeating: UInt8(ascii: "0"))
            for dash in [2, 35, 52] { out[dash] = UInt8(ascii: "-") }
            writeHex(traceID, to: out, 3..<35)
            writeHex(spanID, to: out, 36..<52)
            out[54] = hexDigit(isSampled ? 1 : 0)
            return 55
        }
    }

    private init(traceID: UInt128, spanID: UInt64, isSampled: Bool, state: String) {
        self.traceID = traceID
        self.spanID = spanID
        self.isSampled = isSampled
        self.state = state
    }
}

private func isAcceptable(tracestate: String) -> Bool {
    tracestate.utf8.count <= 512 && tracestate.utf8.count { $0 == UInt8(ascii: ",") } < 32
        && tracestate.utf8.allSatisfy { (0x20...0x7e).contains($0) || $0 == 0x09 }
}

/// Lower-case hexadecimal only, as the standard has it; the digits fit.
private func lowerHex<Number: FixedWidthInteger>(_ digits: ArraySlice<UInt8>) -> Number? {
    var value: Number = 0
    for digit in digits {
        switch digit {
        case 0x30...0x39: value = value << 4 | Number(digit - 0x30)
        case 0x61...0x66: value = value << 4 | Number(digit - 0x61 + 10)
        default: return nil
        }
    }
    return value
}

/// Fills a range of `out` with the digits of a number, the lowest last.
private func writeHex(
    _ number: some FixedWidthInteger & UnsignedInteger,
    to out: UnsafeMutableBufferPointer<UInt8>, _ range: Range<Int>
) {
    var rest = number
    for index in range.reversed() {
        out[index] = hexDigit(UInt8(truncatingIfNeeded: rest) & 15)
        rest >>= 4
    }
}
