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
        var random = SystemRandomNumberGenerator()
        traceID = UInt128.random(in: 1...UInt128.max, using: &random)
        spanID = UInt64.random(in: 1...UInt64.max, using: &random)
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
            traceID: traceID, spanID: UInt64.random(in: 1...UInt64.max), isSampled: isSampled,
            state: state)
    }

    /// The `traceparent` header that makes this span the parent of what the receiver does.
    public var traceparent: String {
        "00-\(paddedHex(traceID))-\(paddedHex(spanID))-\(isSampled ? "01" : "00")"
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

private func paddedHex<Number: FixedWidthInteger & UnsignedInteger>(_ value: Number) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: Number.bitWidth / 4 - digits.count) + digits
}
