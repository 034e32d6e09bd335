internal import CScan

/// Where a walk over the members of a body stands whose end has not come.
public struct JSONMemberWalk: Sendable {
    fileprivate var key: UInt32 = 1
    fileprivate var isInside = false

    /// Before the first member.
    public init() {}
}

/// A value of a body whose end has not come: of a ``JSONScanner``, until its body is finished.
public struct JSONGrowingValue {
    private let scanner: JSONScanner
    private let index: UInt32

    fileprivate init(_ scanner: JSONScanner, _ index: UInt32) {
        self.scanner = scanner
        self.index = index
    }

    private var token: cs_json_token { scanner.token(index) }

    /// Whether its end has come.
    public var isComplete: Bool { token.end_bytes != 0 }

    /// Where its first byte stands in the body.
    public var start: Int { Int(token.start_bytes) }

    /// Whether it is `null`.
    public var isNull: Bool { cs_json_kind_of(token) == CS_JSON_NULL }

    /// Whether it is an array or an object.
    public var isContainer: Bool {
        [CS_JSON_ARRAY, CS_JSON_OBJECT].contains(cs_json_kind_of(token))
    }

    /// Whether it is a string.
    public var isString: Bool {
        [CS_JSON_STRING, CS_JSON_ESCAPED_STRING].contains(cs_json_kind_of(token))
    }

    /// A string, unescaped; nil for any other value, and while its end has not come.
    public var string: String? {
        guard isString, isComplete else { return nil }
        return String(unsafeUninitializedCapacity: Int(token.end_bytes) - start) { out in
            guard let out = out.baseAddress else { return 0 }
            return scanner.bytes.withUnsafeBufferPointer { body in
                body.baseAddress.map { cs_json_unescape(token, $0, out) } ?? 0
            }
        }
    }

    /// Whether this is a string of just this value, and complete; makes no `String`.
    public func equals(_ text: String) -> Bool {
        guard isString, isComplete else { return false }
        var text = text
        return text.withUTF8 { utf8 in
            scanner.bytes.withUnsafeBufferPointer {
                cs_json_equals(token, $0.baseAddress, utf8.baseAddress, utf8.count)
            }
        }
    }

    /// What is there of a string without its quotes, or of an array or object without its
    /// brackets. Does not change but grows.
    public var content: Range<Int> {
        start + 1..<(isComplete ? Int(token.end_bytes) - 1 : scanner.scannedCount)
    }

    /// The first element of an array; nil if there is none, as yet, and for any other value.
    public var firstElement: JSONGrowingValue? {
        guard cs_json_kind_of(token) == CS_JSON_ARRAY, index + 1 < scanner.tokenCount,
            !isComplete || cs_json_next_of(scanner.tokens, index) > index + 1
        else { return nil }
        return JSONGrowingValue(scanner, index + 1)
    }

    /// Whether it begins a list of integers, as its first element does.
    public var isIntegers: Bool { cs_json_kind_of(token) == CS_JSON_INTEGERS }

    /// Where the list of integers ends that this value begins, so far.
    public var end: Int { Int(token.end_bytes) }

    /// The token ids in a list of integers from `place`, at first ``start``, which moves behind
    /// those that are read: as many as `room` holds, which has 64 at the least. Returns how many.
    ///
    /// - Throws: ``ScanError`` at an integer that is none.
    public func readTokenIDs(
        from place: inout Int, into room: UnsafeMutableBufferPointer<UInt32>
    ) throws(ScanError) -> Int {
        guard isIntegers, place < end, let out = room.baseAddress else { return 0 }
        var at = UInt32(place)
        var count = 0
        let status = scanner.bytes.withUnsafeBufferPointer {
            cs_json_more_token_ids(token, $0.baseAddress, &at, out, room.count, &count)
        }
        try ScanError.check(status, at: Int(at))
        place = Int(at)
        return count
    }
}

extension JSONScanner {
    /// The next member of the root object whose value has begun; nil as long as the value before
    /// has no end, and if the root is no object. What comes of keys is all of them, duplicates
    /// included.
    public func nextMember(
        _ walk: inout JSONMemberWalk
    ) -> (key: JSONGrowingValue, value: JSONGrowingValue)? {
        guard tokenCount > 0, cs_json_kind_of(token(0)) == CS_JSON_OBJECT else { return nil }
        if walk.isInside {
            guard token(walk.key + 1).end_bytes != 0 else { return nil }
            walk.key = cs_json_next_of(tokens, walk.key + 1)
            walk.isInside = false
        }
        guard walk.key + 1 < tokenCount else { return nil }
        walk.isInside = true
        return (JSONGrowingValue(self, walk.key), JSONGrowingValue(self, walk.key + 1))
    }

    /// The token of a value; one of an empty `null` once the body is finished.
    fileprivate func token(_ index: UInt32) -> cs_json_token {
        index < tokenCount ? tokens[Int(index)] : cs_json_token()
    }
}
