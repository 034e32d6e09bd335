/// Appends msgpack values to a byte array, each in its shortest format.
///
/// It does not check that as many values follow a header as it promised.
public struct MessagePackWriter: Sendable {
    /// The payload so far.
    public private(set) var bytes: [UInt8] = []

    /// An empty payload with room for `capacity` bytes.
    public init(capacity: Int = 0) {
        bytes.reserveCapacity(capacity)
    }

    /// Empties the payload and keeps its memory.
    public mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
    }

    /// Writes nil.
    public mutating func null() { bytes.append(0xc0) }

    /// Writes a boolean.
    public mutating func bool(_ value: Bool) { bytes.append(value ? 0xc3 : 0xc2) }

    /// Writes an integer.
    public mutating func int(_ value: Int64) {
        guard value < 0 else { return unsigned(UInt64(value)) }
        if value >= -32 {
            bytes.append(UInt8(truncatingIfNeeded: value))
        } else if let value = Int8(exactly: value) {
            append(0xd0, UInt8(bitPattern: value))
        } else if let value = Int16(exactly: value) {
            append(0xd1, UInt16(bitPattern: value))
        } else if let value = Int32(exactly: value) {
            append(0xd2, UInt32(bitPattern: value))
        } else {
            append(0xd3, UInt64(bitPattern: value))
        }
    }

    /// Writes an integer that is not below zero.
    public mutating func unsigned(_ value: UInt64) {
        if value < 0x80 {
            bytes.append(UInt8(value))
        } else if let value = UInt8(exactly: value) {
            append(0xcc, value)
        } else if let value = UInt16(exactly: value) {
            append(0xcd, value)
        } else if let value = UInt32(exactly: value) {
            append(0xce, value)
        } else {
            append(0xcf, value)
        }
    }

    /// Writes a 64-bit floating-point number.
    public mutating func double(_ value: Double) { append(0xcb, value.bitPattern) }

    /// Writes a string of less than 4 GiB.
    public mutating func string(_ text: String) {
        let count = text.utf8.count
        if count < 32 {
            bytes.append(0xa0 | UInt8(count))
        } else if let count = UInt8(exactly: count) {
            append(0xd9, count)
        } else {
            length(count, 0xda, 0xdb)
        }
        bytes.append(contentsOf: text.utf8)
    }

    /// Writes a byte string of less than 4 GiB.
    public mutating func binary(_ value: some Collection<UInt8>) {
        if let count = UInt8(exactly: value.count) {
            append(0xc4, count)
        } else {
            length(value.count, 0xc5, 0xc6)
        }
        bytes.append(contentsOf: value)
    }

    /// Writes the header of an array; `count` values must follow.
    public mutating func array(count: Int) {
        if count < 16 { bytes.append(0x90 | UInt8(count)) } else { length(count, 0xdc, 0xdd) }
    }

    /// Writes the header of a map; `count` keys, each with its value, must follow.
    public mutating func map(count: Int) {
        if count < 16 { bytes.append(0x80 | UInt8(count)) } else { length(count, 0xde, 0xdf) }
    }

    private mutating func length(_ count: Int, _ format16: UInt8, _ format32: UInt8) {
        if let count = UInt16(exactly: count) {
            append(format16, count)
        } else {
            append(format32, UInt32(count))
        }
    }

    private mutating func append(_ format: UInt8, _ value: some FixedWidthInteger) {
        bytes.append(format)
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }
}
