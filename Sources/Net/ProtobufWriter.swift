/// Appends messages to one buffer that is kept from call to call (protobuf encoding, proto3).
public struct ProtobufWriter {
    /// What was written so far.
    @inlinable public var bytes: [UInt8] { buffer }

    @usableFromInline var buffer: [UInt8] = []

    /// An empty buffer.
    @inlinable
    public init() {}

    /// Forgets what was written and keeps the memory.
    @inlinable
    public mutating func removeAll() {
        buffer.removeAll(keepingCapacity: true)
    }

    /// A gRPC frame whose message `body` writes: one byte 0 for "not compressed", then the length
    /// in four bytes, big-endian.
    @inlinable
    public mutating func frame(_ body: (inout ProtobufWriter) -> Void) {
        let start = buffer.count
        for _ in 0..<5 { buffer.append(0) }
        body(&self)
        var rest = buffer.count - start - 5
        for index in stride(from: start + 4, to: start, by: -1) {
            buffer[index] = UInt8(truncatingIfNeeded: rest)
            rest >>= 8
        }
    }

    /// A length-delimited field whose content `body` writes.
    ///
    /// The length is put before the content once it is known, which moves contents of 128 bytes
    /// and more: for headers, not for bodies.
    @inlinable
    public mutating func message(_ number: UInt32, _ body: (inout ProtobufWriter) -> Void) {
        tag(number, wireType: 2)
        let start = buffer.count
        body(&self)
        let count = buffer.count - start
        let prefix = Self.varintBytes(count)
        for _ in 0..<prefix { buffer.append(0) }
        buffer.withUnsafeMutableBytes { all in
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
    @inlinable
    public mutating func head(_ number: UInt32, count: Int) {
        tag(number, wireType: 2)
        varint(UInt64(count))
    }

    /// What ``head(_:count:)`` and its content take together, for field numbers below 16.
    @inlinable
    public static func fieldBytes(_ count: Int) -> Int {
        1 + varintBytes(count) + count
    }

    /// A string field.
    @inlinable
    public mutating func string(_ number: UInt32, _ value: String) {
        var value = value
        value.withUTF8 { data(number, UnsafeRawBufferPointer($0)) }
    }

    /// A bytes field.
    @inlinable
    public mutating func data(_ number: UInt32, _ value: UnsafeRawBufferPointer) {
        head(number, count: value.count)
        append(value)
    }

    /// A bool, enum or unsigned field.
    @inlinable
    public mutating func unsigned(_ number: UInt32, _ value: UInt64) {
        tag(number, wireType: 0)
        varint(value)
    }

    /// A double field.
    public mutating func double(_ number: UInt32, _ value: Double) {
        tag(number, wireType: 1)
        withUnsafeBytes(of: value.bitPattern.littleEndian) { buffer.append(contentsOf: $0) }
    }

    /// Bytes as they are.
    @inlinable
    public mutating func append(_ raw: UnsafeRawBufferPointer) {
        buffer.append(contentsOf: raw)
    }

    @inlinable
    mutating func tag(_ number: UInt32, wireType: UInt64) {
        varint(UInt64(number) << 3 | wireType)
    }

    @inlinable
    mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            buffer.append(UInt8(rest & 0x7F) | 0x80)
            rest >>= 7
        }
        buffer.append(UInt8(rest))
    }

    @inlinable
    static func varintBytes(_ value: Int) -> Int {
        var count = 1
        var rest = value >> 7
        while rest > 0 {
            count += 1
            rest >>= 7
        }
        return count
    }
}
