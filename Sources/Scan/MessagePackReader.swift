internal import CScan

/// Reads a msgpack payload value by value. Headers need not be minimal.
///
/// It borrows the bytes: they must outlive it and every pointer that it gave out. After an error
/// it stands where it stood before the call.
public struct MessagePackReader {
    /// Bytes read so far.
    public private(set) var offset = 0
    private let bytes: UnsafeRawBufferPointer

    /// One value, or the header of a container whose values follow.
    public enum Item {
        case null
        case bool(Bool)
        case unsigned(UInt64)
        /// Below zero.
        case negative(Int64)
        case double(Double)
        /// UTF-8 by convention; not checked.
        case string(UnsafeRawBufferPointer)
        case binary(UnsafeRawBufferPointer)
        case array(count: Int)
        /// `count` keys, each followed by its value.
        case map(count: Int)
        case `extension`(type: Int8, UnsafeRawBufferPointer)
    }

    /// Starts at the first byte.
    public init(_ bytes: UnsafeRawBufferPointer) {
        self.bytes = bytes
    }

    /// Whether everything was read.
    public var isAtEnd: Bool { offset == bytes.count }

    /// Reads a value or header.
    ///
    /// - Throws: ``ScanError`` of reason `truncated`, also where a header promises more values
    ///   than there are bytes left, or `formatByte`.
    public mutating func next() throws(ScanError) -> Item {
        let item = try nextItem()
        return switch item.kind {
        case CS_MP_NIL: .null
        case CS_MP_FALSE: .bool(false)
        case CS_MP_TRUE: .bool(true)
        case CS_MP_UINT: .unsigned(item.unsigned_value)
        case CS_MP_INT: .negative(item.signed_value)
        case CS_MP_FLOAT: .double(item.float_value)
        case CS_MP_STRING: .string(payload(item))
        case CS_MP_BINARY: .binary(payload(item))
        case CS_MP_ARRAY: .array(count: Int(item.count))
        case CS_MP_MAP: .map(count: Int(item.count))
        default: .extension(type: item.extension_type, payload(item))
        }
    }

    /// Reads over a whole value with all that is in it.
    ///
    /// - Throws: ``ScanError`` as ``next()``.
    public mutating func skip() throws(ScanError) {
        try ScanError.check(cs_mp_skip(base, bytes.count, &offset), at: offset)
    }

    /// Reads a nil if one is next.
    ///
    /// - Returns: Whether one was.
    public mutating func skipNull() -> Bool {
        guard offset < bytes.count, bytes[offset] == 0xc0 else { return false }
        offset += 1
        return true
    }

    /// Reads the header of an array and gives its count.
    ///
    /// - Throws: ``ScanError`` as ``next()``, and of reason `kind` if something else is next.
    public mutating func arrayCount() throws(ScanError) -> Int {
        Int(try nextItem(CS_MP_ARRAY).count)
    }

    /// Reads the header of a map and gives its count of pairs.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``.
    public mutating func mapCount() throws(ScanError) -> Int {
        Int(try nextItem(CS_MP_MAP).count)
    }

    /// Reads an integer that is not below zero.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``.
    public mutating func unsigned() throws(ScanError) -> UInt64 {
        try nextItem(CS_MP_UINT).unsigned_value
    }

    /// Reads the bytes of a string; valid as long as the payload is.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``.
    public mutating func stringBytes() throws(ScanError) -> UnsafeRawBufferPointer {
        // Field names, mostly: up to 31 bytes, whose number is in the first one.
        if offset < bytes.count, bytes[offset] & 0xe0 == 0xa0 {
            let count = Int(bytes[offset] & 0x1f)
            if count < bytes.count - offset {
                let start = offset + 1
                offset = start + count
                return UnsafeRawBufferPointer(rebasing: bytes[start..<offset])
            }
        }
        return payload(try nextItem(CS_MP_STRING))
    }

    /// Reads a string.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``, and of reason `malformedUTF8`.
    public mutating func string() throws(ScanError) -> String {
        let start = offset
        let bytes = try stringBytes()
        guard let string = String(validating: bytes, as: UTF8.self) else {
            offset = start
            throw ScanError(offset: start, reason: .malformedUTF8)
        }
        return string
    }

    /// Reads a number of any format.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``.
    public mutating func double() throws(ScanError) -> Double {
        let start = offset
        switch try next() {
        case .double(let value): return value
        case .unsigned(let value): return Double(value)
        case .negative(let value): return Double(value)
        default:
            offset = start
            throw ScanError(offset: start, reason: .kind)
        }
    }

    /// Reads an array of token ids and appends them.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``, and of reason `tokenID` if an element is not
    ///   an integer between 0 and 4294967295; `ids` is as before then.
    public mutating func tokenIDs(into ids: inout [UInt32]) throws(ScanError) {
        try elements(into: &ids, filler: 0, cs_mp_token_ids)
    }

    /// Reads an array of names of 64 bits and appends them: integers of either sign as their bits,
    /// and binaries by their last 8 bytes, big-endian.
    ///
    /// - Throws: ``ScanError`` as ``arrayCount()``, also of reason `kind` if an element is
    ///   something else; `words` is as before then.
    public mutating func words(into words: inout [UInt64]) throws(ScanError) {
        try elements(into: &words, filler: 0, cs_mp_words)
    }

    private mutating func elements<Element>(
        into elements: inout [Element], filler: Element,
        _ read: (
            UnsafePointer<UInt8>?, Int, UnsafeMutablePointer<Int>?, UInt32,
            UnsafeMutablePointer<Element>?
        ) -> cs_status
    ) throws(ScanError) {
        var end = offset
        var item = cs_mp_item()
        try ScanError.check(cs_mp_next(base, bytes.count, &end, &item), at: offset)
        guard item.kind == CS_MP_ARRAY else { throw ScanError(offset: offset, reason: .kind) }
        let oldCount = elements.count
        elements.append(contentsOf: repeatElement(filler, count: Int(item.count)))
        let status = elements.withUnsafeMutableBufferPointer { out in
            read(base, bytes.count, &end, item.count, out.baseAddress.map { $0 + oldCount })
        }
        if status != CS_OK { elements.removeSubrange(oldCount...) }
        try ScanError.check(status, at: end)
        offset = end
    }

    private var base: UnsafePointer<UInt8>? {
        bytes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    }

    private mutating func nextItem() throws(ScanError) -> cs_mp_item {
        var item = cs_mp_item()
        try ScanError.check(cs_mp_next(base, bytes.count, &offset, &item), at: offset)
        return item
    }

    private mutating func nextItem(_ kind: cs_mp_kind) throws(ScanError) -> cs_mp_item {
        let start = offset
        let item = try nextItem()
        guard item.kind == kind else {
            offset = start
            throw ScanError(offset: start, reason: .kind)
        }
        return item
    }

    private func payload(_ item: cs_mp_item) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: bytes[item.start_bytes...].prefix(Int(item.count)))
    }
}
