internal import CScan

/// A value of a ``JSONDocument``. It keeps the document alive and copies nothing until asked.
public struct JSONValue: Sendable {
    /// The document that holds the value.
    public let document: JSONDocument
    /// Where its token is on the tape; an integer of an array shares its run's.
    let index: UInt32
    private let token: cs_json_token

    init(document: JSONDocument, index: UInt32) {
        self.init(document: document, index: index, token: document.tokens[Int(index)])
    }

    fileprivate init(document: JSONDocument, index: UInt32, token: cs_json_token) {
        self.document = document
        self.index = index
        self.token = token
    }

    /// The kinds of value.
    public enum Kind: Sendable {
        case null, bool, number, string, array, object
    }

    /// The kind of this value.
    public var kind: Kind {
        switch cs_json_kind_of(token) {
        case CS_JSON_NULL: .null
        case CS_JSON_FALSE, CS_JSON_TRUE: .bool
        case CS_JSON_INTEGER, CS_JSON_REAL: .number
        case CS_JSON_STRING, CS_JSON_ESCAPED_STRING: .string
        case CS_JSON_ARRAY: .array
        default: .object
        }
    }

    /// Where the value stands in the document's bytes, quotes and brackets included.
    public var byteRange: Range<Int> { Int(token.start_bytes)..<Int(token.end_bytes) }

    /// The value's text, quotes and brackets included.
    public var rawBytes: ArraySlice<UInt8> { document.bytes[byteRange] }

    /// Whether the value is `null`.
    public var isNull: Bool { kind == .null }

    /// The value of a boolean.
    public var bool: Bool? {
        switch cs_json_kind_of(token) {
        case CS_JSON_TRUE: true
        case CS_JSON_FALSE: false
        default: nil
        }
    }

    /// The value of a number written without fraction and exponent, if it fits.
    public var int: Int? {
        var value: Int64 = 0
        let found = withBody { cs_json_integer(token, $0, &value) }
        return found ? Int(value) : nil
    }

    /// The value of a number; infinite if it is too large.
    public var double: Double? {
        guard kind == .number else { return nil }
        return document.bytes.withUnsafeBufferPointer { decimal(in: $0, byteRange) }
    }

    /// The value of a string, unescaped.
    public var string: String? {
        guard kind == .string else { return nil }
        if cs_json_kind_of(token) == CS_JSON_STRING {
            return String(decoding: rawBytes.dropFirst().dropLast(), as: UTF8.self)
        }
        return String(unsafeUninitializedCapacity: byteRange.count) { out in
            guard let start = out.baseAddress else { return 0 }
            return withBody { cs_json_unescape(token, $0, start) }
        }
    }

    /// Whether this is a string of just this value; makes no `String`.
    public func equals(_ text: String) -> Bool {
        guard kind == .string else { return false }
        var text = text
        return text.withUTF8 { utf8 in
            withBody { cs_json_equals(token, $0, utf8.baseAddress, utf8.count) }
        }
    }

    /// The member of an object with this key, the last of duplicates; nil in any other value.
    public subscript(key: String) -> JSONValue? {
        guard kind == .object else { return nil }
        var key = key
        let found = key.withUTF8 { utf8 in
            withBody { cs_json_find(document.tokens, $0, index, utf8.baseAddress, utf8.count) }
        }
        return found == UInt32.max ? nil : JSONValue(document: document, index: found)
    }

    /// The elements of an array; empty for any other value.
    public var elements: JSONElements {
        JSONElements(document: document, at: index + 1, end: kind == .array ? next : index + 1)
    }

    /// The members of an object in the order of the text, duplicates included; empty for any
    /// other value.
    public var members: JSONMembers {
        JSONMembers(document: document, at: index + 1, end: kind == .object ? next : index + 1)
    }

    /// Where the integers stand in an array that has nothing else and is not empty.
    public var integersRange: Range<Int>? {
        guard kind == .array, next == index + 2 else { return nil }
        let list = document.tokens[Int(index) + 1]
        guard cs_json_kind_of(list) == CS_JSON_INTEGERS else { return nil }
        return Int(list.start_bytes)..<Int(list.end_bytes)
    }

    /// Appends the elements of an array of token ids in one pass.
    ///
    /// - Throws: ``ScanError`` of reason `kind` if this is no array, `tokenID` at the first
    ///   element that is not an integer between 0 and 4294967295; `ids` is as before then.
    public func tokenIDs(into ids: inout [UInt32]) throws(ScanError) {
        let oldCount = ids.count
        let count = cs_json_element_count(document.tokens, index)
        ids.append(contentsOf: repeatElement(0, count: Int(count)))
        var badAt: UInt32 = 0
        let status = ids.withUnsafeMutableBufferPointer { out in
            withBody {
                cs_json_token_ids(
                    document.tokens, $0, index, out.baseAddress.map { $0 + oldCount }, &badAt)
            }
        }
        if status != CS_OK { ids.removeSubrange(oldCount...) }
        try ScanError.check(status, at: Int(badAt))
    }
}

extension JSONValue {
    /// Where the value stands, as API errors name it: `messages[0].content`; empty for the root.
    ///
    /// Walks the document from its start: for errors, not for hot paths.
    public var path: String {
        var path = ""
        var current = JSONValue(document: document, index: 0)
        while current.byteRange != byteRange {
            if current.kind == .array {
                for (position, element) in current.elements.enumerated() where element.holds(self) {
                    path += "[\(position)]"
                    current = element
                    break
                }
            } else {
                for (key, value) in current.members where value.holds(self) {
                    path += path.isEmpty ? key : ".\(key)"
                    current = value
                    break
                }
            }
        }
        return path
    }

    private func holds(_ other: JSONValue) -> Bool {
        byteRange.lowerBound <= other.byteRange.lowerBound
            && other.byteRange.upperBound <= byteRange.upperBound
    }
}

extension JSONValue {
    /// The index of the first token behind the value.
    fileprivate var next: UInt32 { cs_json_next_of(document.tokens, index) }

    fileprivate func withBody<Result>(_ read: (UnsafePointer<UInt8>?) -> Result) -> Result {
        document.bytes.withUnsafeBufferPointer { read($0.baseAddress) }
    }
}

/// The elements of an array.
public struct JSONElements: Sequence, IteratorProtocol, Sendable {
    fileprivate let document: JSONDocument
    fileprivate var at: UInt32
    fileprivate let end: UInt32
    /// Inside the run of integers at `at`.
    private var byteAt: UInt32 = 0

    fileprivate init(document: JSONDocument, at: UInt32, end: UInt32) {
        self.document = document
        self.at = at
        self.end = end
    }

    /// The next element.
    public mutating func next() -> JSONValue? {
        while at < end {
            let token = document.tokens[Int(at)]
            guard cs_json_kind_of(token) == CS_JSON_INTEGERS else {
                defer { at = cs_json_next_of(document.tokens, at) }
                return JSONValue(document: document, index: at)
            }
            byteAt = Swift.max(byteAt, token.start_bytes)
            var integer = cs_json_token()
            let found = document.bytes.withUnsafeBufferPointer {
                cs_json_next_integer(token, $0.baseAddress, &byteAt, &integer)
            }
            if found { return JSONValue(document: document, index: at, token: integer) }
            at += 1
        }
        return nil
    }
}

/// The members of an object.
public struct JSONMembers: Sequence, IteratorProtocol, Sendable {
    fileprivate let document: JSONDocument
    fileprivate var at: UInt32
    fileprivate let end: UInt32

    /// The next member.
    public mutating func next() -> (key: String, value: JSONValue)? {
        guard let member = nextTokens() else { return nil }
        return (member.key.string ?? "", member.value)
    }

    /// The next member, its key as it stands in the text.
    mutating func nextTokens() -> (key: JSONValue, value: JSONValue)? {
        guard at < end else { return nil }
        let key = JSONValue(document: document, index: at)
        let value = JSONValue(document: document, index: at + 1)
        at = value.next
        return (key, value)
    }
}
