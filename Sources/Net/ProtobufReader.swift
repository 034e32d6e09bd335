/// Bytes that are not a valid message, and where reading stopped.
public struct ProtobufError: Error, Equatable, Sendable, CustomStringConvertible {
    /// What was wrong, as the end of a sentence that starts with "protobuf message".
    public var problem: String

    /// Makes an error.
    public init(problem: String) {
        self.problem = problem
    }

    /// One line for people.
    public var description: String { "protobuf message \(problem)" }
}

/// Reads the fields of one message in place (protobuf encoding, proto3).
///
/// The reader borrows: what it returns points into the buffer it was made over. Groups (wire
/// types 3 and 4) are refused; proto3 has none.
public struct ProtobufReader {
    /// A field as it stands on the wire.
    public struct Field {
        /// From 1 on, as the message's definition has it.
        public var number: UInt32
        /// What it holds.
        public var value: Value

        @inlinable
        init(number: UInt32, value: Value) {
            self.number = number
            self.value = value
        }
    }

    /// A field's value by wire type.
    public enum Value {
        case varint(UInt64)
        case fixed64
        case bytes(UnsafeRawBufferPointer)
        case fixed32
    }

    @usableFromInline let bytes: UnsafeRawBufferPointer
    @usableFromInline var offset = 0

    /// Reads the message that lies in `bytes`.
    @inlinable
    public init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    /// The next field, or nil at the end of the message.
    @inlinable
    public mutating func next() throws(ProtobufError) -> Field? {
        guard offset < bytes.count else { return nil }
        let tag = try varint()
        guard let number = UInt32(exactly: tag >> 3), number > 0, number < 1 << 29 else {
            throw ProtobufError(problem: "has a field number out of range")
        }
        switch tag & 7 {
        case 0: return Field(number: number, value: .varint(try varint()))
        case 1:
            _ = try take(8)
            return Field(number: number, value: .fixed64)
        case 2:
            let length = try varint()
            guard length <= UInt64(bytes.count - offset) else {
                throw ProtobufError(problem: "ends inside field \(number)")
            }
            return Field(number: number, value: .bytes(try take(Int(length))))
        case 5:
            _ = try take(4)
            return Field(number: number, value: .fixed32)
        default:
            throw ProtobufError(problem: "has wire type \(tag & 7) in field \(number)")
        }
    }

    @inlinable
    mutating func varint() throws(ProtobufError) -> UInt64 {
        // Nearly all tags and most lengths are of one byte.
        if offset < bytes.count, bytes[offset] < 0x80 {
            defer { offset += 1 }
            return UInt64(bytes[offset])
        }
        return try longVarint()
    }

    @usableFromInline
    mutating func longVarint() throws(ProtobufError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while offset < bytes.count {
            let byte = bytes[offset]
            offset += 1
            // The tenth byte holds bit 63 alone.
            guard shift < 63 || byte <= 1 else { break }
            value |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return value }
            shift += 7
        }
        throw ProtobufError(problem: "has a bad varint at offset \(offset)")
    }

    @inlinable
    mutating func take(_ count: Int) throws(ProtobufError) -> UnsafeRawBufferPointer {
        guard count <= bytes.count - offset else {
            throw ProtobufError(problem: "ends early")
        }
        defer { offset += count }
        return UnsafeRawBufferPointer(start: bytes.baseAddress.map { $0 + offset }, count: count)
    }
}
