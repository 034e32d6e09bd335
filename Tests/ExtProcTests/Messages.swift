import Core
import ExtProc

/// A ProcessingResponse as a data plane reads it.
enum Response: Equatable {
    case headers(
        ProcessingResponseWriter.Side, set: [[String]], remove: [String], destination: String?)
    case body(ProcessingResponseWriter.Side, [UInt8], endOfStream: Bool)
    case trailers(ProcessingResponseWriter.Side)
    case immediate(status: Int, headers: [[String]], body: String)

    /// The messages of consecutive gRPC frames.
    static func all(in frames: [UInt8]) throws -> [Response] {
        var responses: [Response] = []
        var rest = frames[...]
        while !rest.isEmpty {
            let length = rest.dropFirst().prefix(4).reduce(0) { $0 << 8 | Int($1) }
            responses.append(try Response(message: Array(rest.dropFirst(5).prefix(length))))
            rest = rest.dropFirst(5 + length)
        }
        return responses
    }

    /// One message.
    init(message bytes: [UInt8]) throws {
        let message = Message(bytes)
        if let immediate = message.message(7) {
            self = .immediate(
                status: immediate.message(1)?.number(1) ?? 0,
                headers: immediate.message(2)?.headers(1) ?? [], body: immediate.string(3) ?? "")
            return
        }
        for (side, base) in [(ProcessingResponseWriter.Side.request, 0), (.response, 1)] {
            if let common = message.message(1 + base)?.message(1) {
                let mutation = common.message(2)
                let destination = message.message(8)?.message(1)?.message(2)?.message(5)?
                    .message(1)?.message(2)?.string(3)
                self = .headers(
                    side, set: mutation?.headers(1) ?? [], remove: mutation?.strings(2) ?? [],
                    destination: destination)
                return
            }
            if let streamed = message.message(3 + base)?.message(1)?.message(3)?.message(3) {
                self = .body(
                    side, streamed.bytes(1) ?? [], endOfStream: streamed.number(2) == 1)
                return
            }
            if message.message(5 + base) != nil {
                self = .trailers(side)
                return
            }
        }
        throw NotAResponse()
    }
}

/// Bytes that no data plane would take.
struct NotAResponse: Error {}

/// A message as a list of fields: slow, and independent of the codec under test.
private struct Message {
    private var fields: [(number: Int, value: Int, bytes: [UInt8]?)] = []

    init(_ bytes: [UInt8]) {
        var rest = bytes[...]
        func varint() -> Int {
            var value = 0
            var shift = 0
            while let byte = rest.popFirst() {
                value |= Int(byte & 0x7F) << shift
                shift += 7
                if byte < 0x80 { break }
            }
            return value
        }
        while !rest.isEmpty {
            let tag = varint()
            let value = varint()
            if tag & 7 == 2 {
                fields.append((tag >> 3, value, Array(rest.prefix(value))))
                rest = rest.dropFirst(value)
            } else {
                fields.append((tag >> 3, value, nil))
            }
        }
    }

    func number(_ field: Int) -> Int? { fields.last { $0.number == field }?.value }
    func bytes(_ field: Int) -> [UInt8]? { fields.last { $0.number == field }?.bytes }
    func message(_ field: Int) -> Message? { bytes(field).map(Message.init) }
    func string(_ field: Int) -> String? {
        bytes(field).map { String(decoding: $0, as: UTF8.self) }
    }
    func strings(_ field: Int) -> [String] {
        fields.filter { $0.number == field }.map { String(decoding: $0.bytes ?? [], as: UTF8.self) }
    }
    func headers(_ field: Int) -> [[String]] {
        fields.filter { $0.number == field }.map { entry in
            let header = Message(entry.bytes ?? []).message(1)
            return [header?.string(1) ?? "", header?.string(3) ?? ""]
        }
    }
}

extension ProcessingResponseWriter {
    /// A body of `count` times the letter.
    mutating func body(_ side: Side, _ letter: Character, count: Int, end: Bool) {
        let bytes = Array(String(repeating: letter, count: count).utf8)
        bytes.withUnsafeBytes { body(side, $0, endOfStream: end) }
    }
}

func hex(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef".utf8)
    return String(
        decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
}

func bytes(fromHex hex: String) -> [UInt8] {
    let digits = hex.utf8.map { $0 > 0x39 ? $0 - 0x61 + 10 : $0 - 0x30 }
    return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
}

/// A small generator that gives the same sequence for the same seed on every machine.
struct SplitMix64: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// Messages as a data plane sends them.
enum Request {
    static func requestHeaders(
        _ headers: [(String, String)], end: Bool = false, metadata: [UInt8] = []
    ) -> [UInt8] {
        field(2, headerMap(headers) + (end ? [0x18, 1] : [])) + metadata
    }

    static func responseHeaders(
        _ headers: [(String, String)], end: Bool = false, metadata: [UInt8] = []
    ) -> [UInt8] {
        field(3, headerMap(headers) + (end ? [0x18, 1] : [])) + metadata
    }

    static func requestBody(_ body: some Sequence<UInt8>, end: Bool = false) -> [UInt8] {
        field(4, field(1, Array(body)) + (end ? [0x10, 1] : []))
    }

    static func responseBody(_ body: String, end: Bool = false) -> [UInt8] {
        field(5, field(1, Array(body.utf8)) + (end ? [0x10, 1] : []))
    }

    static let requestTrailers = field(6, [])
    static let responseTrailers = field(7, [])

    /// metadata_context with the subset hint.
    static func subset(_ endpoints: [String]) -> [UInt8] {
        let values = endpoints.flatMap { field(1, field(3, Array($0.utf8))) }
        return metadata(
            "envoy.lb.subset_hint", "x-gateway-destination-endpoint-subset", field(6, values))
    }

    /// metadata_context with the endpoint that served the request.
    static func served(by endpoint: String) -> [UInt8] {
        metadata(
            "envoy.lb", "x-gateway-destination-endpoint-served", field(3, Array(endpoint.utf8)))
    }

    private static func metadata(_ name: String, _ key: String, _ value: [UInt8]) -> [UInt8] {
        let entry = field(1, field(1, Array(key.utf8)) + field(2, value))
        return field(8, field(1, field(1, Array(name.utf8)) + field(2, entry)))
    }

    private static func headerMap(_ headers: [(String, String)]) -> [UInt8] {
        field(
            1,
            headers.flatMap { name, value in
                field(1, field(1, Array(name.utf8)) + field(3, Array(value.utf8)))
            })
    }

    private static func field(_ number: UInt8, _ content: [UInt8]) -> [UInt8] {
        var length: [UInt8] = []
        var rest = content.count
        repeat {
            length.append(UInt8(rest & 0x7F) | (rest > 0x7F ? 0x80 : 0))
            rest >>= 7
        } while rest > 0
        return [number << 3 | 2] + length + content
    }
}
