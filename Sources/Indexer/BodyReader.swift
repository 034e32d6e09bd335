internal import Scan

/// Reads the members of a request's body and says which one is wrong.
struct BodyReader {
    private let root: JSONValue

    /// - Parameter fields: The members that a body may have; any other is an error.
    init(_ document: JSONDocument, fields: Set<String>) throws(IndexerError) {
        root = document.root
        guard root.kind == .object else {
            throw IndexerError(.invalidJSON, "the body must be a JSON object")
        }
        for (key, _) in root.members where !fields.contains(key) {
            throw IndexerError(.unknownField, "there is no member '\(key)'", field: key)
        }
    }

    /// A string that is there and not empty.
    func string(_ name: String) throws(IndexerError) -> String {
        let value = try required(name)
        guard let text = value.string else { throw wrongType(name, "a string") }
        guard !text.isEmpty else {
            throw IndexerError(.invalidValue, "\(name) must not be empty", field: name)
        }
        return text
    }

    /// A string; nil if it is absent, null or empty.
    func optionalString(_ name: String) throws(IndexerError) -> String? {
        guard let value = root[name], !value.isNull else { return nil }
        guard let text = value.string else { throw wrongType(name, "a string") }
        return text.isEmpty ? nil : text
    }

    /// An integer that is there.
    func integer(_ name: String, in range: ClosedRange<Int>) throws(IndexerError) -> Int {
        try integer(try required(name), name, range)
    }

    /// An integer; nil if it is absent or null.
    func optionalInteger(_ name: String, in range: ClosedRange<Int>) throws(IndexerError) -> Int? {
        guard let value = root[name], !value.isNull else { return nil }
        return try integer(value, name, range)
    }

    /// An array of token ids that is there.
    func tokenIDs(_ name: String) throws(IndexerError) -> [UInt32] {
        let value = try required(name)
        var tokens: [UInt32] = []
        do {
            try value.tokenIDs(into: &tokens)
        } catch {
            guard error.reason == .tokenID else { throw wrongType(name, "an array of integers") }
            let index = value.elements.enumerated().first {
                $0.element.byteRange.lowerBound == error.offset
            }
            throw IndexerError(
                .outOfRange, "\(name) must hold integers from 0 to \(UInt32.max)", field: name,
                index: index?.offset)
        }
        return tokens
    }

    /// Checks that a member is an object, null or absent; nothing is read of it.
    func ignoreObject(_ name: String) throws(IndexerError) {
        guard let value = root[name], !value.isNull else { return }
        guard value.kind == .object else { throw wrongType(name, "an object") }
    }

    private func required(_ name: String) throws(IndexerError) -> JSONValue {
        guard let value = root[name] else {
            throw IndexerError(.missing, "\(name) is required", field: name)
        }
        return value
    }

    private func integer(
        _ value: JSONValue, _ name: String, _ range: ClosedRange<Int>
    ) throws(IndexerError) -> Int {
        guard let number = value.int else { throw wrongType(name, "an integer") }
        guard range.contains(number) else {
            throw IndexerError(
                .outOfRange, "\(name) must be from \(range.lowerBound) to \(range.upperBound)",
                field: name)
        }
        return number
    }

    private func wrongType(_ name: String, _ type: String) -> IndexerError {
        IndexerError(.invalidType, "\(name) must be \(type)", field: name)
    }
}

extension BodyReader {
    /// The tenant that a body speaks of.
    func tenant() throws(IndexerError) -> String {
        try optionalString("tenant_id") ?? IndexedEngine.defaultTenant
    }

    /// Checks that `block_size` is the index's.
    func checkBlockSize(_ expected: Int) throws(IndexerError) {
        let given = try integer("block_size", in: 1...Int(Int32.max))
        guard given == expected else {
            throw IndexerError(
                .unsupported,
                "block_size is \(given), but this index has blocks of \(expected) tokens",
                field: "block_size")
        }
    }
}
