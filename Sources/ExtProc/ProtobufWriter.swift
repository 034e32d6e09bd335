/// Appends messages to one buffer that is kept from call to call (protobuf encoding, proto3).
struct ProtobufWriter {
    private(set) var bytes: [UInt8] = []

    /// Forgets what was written and keeps the memory.
    mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
    }

    /// A gRPC frame whose message `body` writes: one byte 0 for "not compressed", then the length
    /// in four bytes, big-endian.
    mutating func frame(_ body: (inout ProtobufWriter) -> Void) {
        let start = bytes.count
        for _ in 0..<5 { bytes.append(0) }
        body(&self)
        var rest = bytes.count - start - 5
        for index in stride(from: start + 4, to: start, by: -1) {
            bytes[index] = UInt8(truncatingIfNeeded: rest)
            rest >>= 8
        }
    }

    /// A length-delimited field whose content `body` writes.
    ///
    /// The length is put before the content once it is known, which moves contents of 128 bytes
    /// and more: for headers, not for bodies.
    mutating func message(_ number: UInt32, _ body: (inout ProtobufWriter) -> Void) {
        tag(number, wireType: 2)
        let start = bytes.count
        body(&self)
        let count = bytes.count - start
        let prefix = Self.varintBytes(count)
        for _ in 0..<prefix { bytes.append(0) }
        bytes.withUnsafeMutableBytes { all in
            let content = UnsafeMutableRawBufferPointer(rebasing: all[(start + prefix)...])
            content.copyMemory(from: UnsafeRawBufferPointer(rebasing: all[start..<start + count]))
            var rest = count
            for index in start..<start + prefix {
                all[index] = UInt8(rest & 0x7F) | (index == start + prefix - 1 ? 0 : 0x80)
                rest >>= 7
            }
        }
    }

    /// The head of a length-delimited field of `count` bytes, which the caller appends next.
    mutating func head(_ number: UInt32, count: Int) {
        tag(number, wireType: 2)
        varint(UInt64(count))
    }

    /// What ``head(_:count:)`` and its content take together, for field numbers below 16.
    static func fieldBytes(_ count: Int) -> Int {
        1 + varintBytes(count) + count
    }

    /// A string field.
    mutating func string(_ number: UInt32, _ value: String) {
        var value = value
        value.withUTF8 { data(number, UnsafeRawBufferPointer($0)) }
    }

    /// A bytes field.
    mutating func data(_ number: UInt32, _ value: UnsafeRawBufferPointer) {
        head(number, count: value.count)
        append(value)
    }

    /// A bool, enum or unsigned field.
    mutating func unsigned(_ number: UInt32, _ value: UInt64) {
        tag(number, wireType: 0)
        varint(value)
    }

    /// Bytes as they are.
    mutating func append(_ raw: UnsafeRawBufferPointer) {
        bytes.append(contentsOf: raw)
    }

    private mutating func tag(_ number: UInt32, wireType: UInt64) {
        varint(UInt64(number) << 3 | wireType)
    }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    private static func varintBytes(_ value: Int) -> Int {
        var count = 1
        var rest = value >> 7
        while rest > 0 {
            count += 1
            rest >>= 7
        }
        return count
    }
}
