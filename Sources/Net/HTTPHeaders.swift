internal import CNet

/// Header fields in their order. Names compare without ASCII case; a name may occur often.
///
/// Stored flat, as one buffer of bytes and the places of names and values in it: no string exists
/// until one is asked for.
public struct HTTPHeaders: Sendable {
    private var bytes: [UInt8]
    private var fields: [cn_field]

    /// No fields.
    public init() {
        bytes = []
        fields = []
    }

    /// Copies the fields of a received head.
    init(_ head: borrowing cn_head) {
        bytes = Array(UnsafeBufferPointer(start: head.bytes, count: head.bytes_count))
        fields = Array(UnsafeBufferPointer(start: head.fields, count: head.field_count))
    }

    /// The number of fields.
    public var count: Int { fields.count }

    /// Whether there is no field.
    public var isEmpty: Bool { fields.isEmpty }

    /// The value of the first field called `name`, as UTF-8 text.
    public subscript(first name: String) -> String? {
        withName(name) { name in
            fields.first { matches($0, name) }.map(value)
        }
    }

    /// The values of all fields called `name`, in order.
    public func values(of name: String) -> [String] {
        withName(name) { name in
            fields.lazy.filter { matches($0, name) }.map(value)
        }
    }

    /// Whether a field is called `name`.
    public func contains(_ name: String) -> Bool {
        withName(name) { name in
            fields.contains { matches($0, name) }
        }
    }

    /// Adds a field at the end. Line breaks and NUL in the value are sent as spaces, and a field
    /// whose name is not a token (RFC 9110 section 5.1) is not sent.
    public mutating func append(_ name: String, _ value: String) {
        let nameOffset = bytes.count
        bytes.append(contentsOf: name.utf8)
        let valueOffset = bytes.count
        bytes.append(contentsOf: value.utf8)
        fields.append(
            cn_field(
                name_offset: UInt32(nameOffset), name_count: UInt32(valueOffset - nameOffset),
                value_offset: UInt32(valueOffset), value_count: UInt32(bytes.count - valueOffset)))
    }

    /// Replaces every field called `name` by one at the end.
    public mutating func set(_ name: String, _ value: String) {
        remove(name)
        append(name, value)
    }

    /// Removes every field called `name`.
    public mutating func remove(_ name: String) {
        guard contains(name) else { return }
        // The bytes stay behind: heads are short-lived.
        var name = name
        name.withUTF8 { name in
            let bytes = bytes
            bytes.withUnsafeBufferPointer { bytes in
                fields.removeAll { $0.isCalled(name, in: bytes) }
            }
        }
    }

    /// Calls `body` with the bytes of every name and value, in order, without making strings.
    public func forEachBytes(
        _ body: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) {
        bytes.withUnsafeBytes { bytes in
            for field in fields {
                body(
                    UnsafeRawBufferPointer(
                        rebasing: bytes[Int(field.name_offset)...].prefix(Int(field.name_count))),
                    UnsafeRawBufferPointer(
                        rebasing: bytes[Int(field.value_offset)...].prefix(Int(field.value_count))))
            }
        }
    }

    /// Calls `body` with a C head that borrows the fields.
    func withHead<Result>(_ body: (inout cn_head) -> Result) -> Result {
        bytes.withUnsafeBufferPointer { bytes in
            fields.withUnsafeBufferPointer { fields in
                var head = cn_head()
                head.bytes = bytes.baseAddress
                head.bytes_count = bytes.count
                head.fields = fields.baseAddress
                head.field_count = fields.count
                return body(&head)
            }
        }
    }

    private func withName<Result>(
        _ name: String, _ body: (UnsafeBufferPointer<UInt8>) -> Result
    ) -> Result {
        var name = name
        return name.withUTF8(body)
    }

    private func matches(_ field: cn_field, _ name: UnsafeBufferPointer<UInt8>) -> Bool {
        bytes.withUnsafeBufferPointer { field.isCalled(name, in: $0) }
    }

    private func name(_ field: cn_field) -> String {
        text(field.name_offset, field.name_count)
    }

    private func value(_ field: cn_field) -> String {
        text(field.value_offset, field.value_count)
    }

    private func text(_ offset: UInt32, _ count: UInt32) -> String {
        String(decoding: bytes[Int(offset)..<Int(offset + count)], as: UTF8.self)
    }
}

extension cn_field {
    fileprivate func isCalled(
        _ name: UnsafeBufferPointer<UInt8>, in bytes: UnsafeBufferPointer<UInt8>
    ) -> Bool {
        guard Int(name_count) == name.count else { return false }
        let start = Int(name_offset)
        return name.indices.allSatisfy { bytes[start + $0].lowercased == name[$0].lowercased }
    }
}

extension UInt8 {
    /// The lower-case form of an ASCII letter, and any other byte as it is.
    fileprivate var lowercased: UInt8 {
        self >= UInt8(ascii: "A") && self <= UInt8(ascii: "Z") ? self | 0x20 : self
    }
}

extension HTTPHeaders: Sequence {
    /// The fields as strings, in order.
    public func makeIterator() -> AnyIterator<(name: String, value: String)> {
        var index = 0
        return AnyIterator {
            guard index < fields.count else { return nil }
            defer { index += 1 }
            return (name(fields[index]), value(fields[index]))
        }
    }
}

extension HTTPHeaders: Equatable {
    /// The same fields in the same order; names compare without case, values byte by byte.
    public static func == (left: HTTPHeaders, right: HTTPHeaders) -> Bool {
        left.count == right.count
            && zip(left.fields, right.fields).allSatisfy { one, other in
                left.value(one) == right.value(other)
                    && left.withName(right.name(other)) { left.matches(one, $0) }
            }
    }
}

extension HTTPHeaders: ExpressibleByDictionaryLiteral {
    /// The fields in the order written; a name may occur twice.
    public init(dictionaryLiteral elements: (String, String)...) {
        self.init()
        for (name, value) in elements { append(name, value) }
    }
}

extension HTTPHeaders: CustomStringConvertible {
    /// One `name: value` per line.
    public var description: String {
        map { "\($0.name): \($0.value)" }.joined(separator: "\n")
    }
}
