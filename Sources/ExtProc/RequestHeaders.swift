internal import Core
internal import Net
internal import Relay

/// The headers of a request, kept as the data plane sent them: one copy, and where the fields lie
/// in it.
struct RequestHeaders: HeaderLookup {
    private struct Field {
        var name: Range<Int>
        var value: Range<Int>
    }

    private let bytes: [UInt8]
    private let fields: [Field]

    /// No headers.
    init() {
        bytes = []
        fields = []
    }

    /// Copies a list.
    init(_ list: HeaderList) throws(ProtobufError) {
        var fields: [Field] = []
        fields.reserveCapacity(16)
        try list.forEach { name, value in
            fields.append(Field(name: list.range(of: name), value: list.range(of: value)))
        }
        self.fields = fields
        bytes = Array(list.bytes)
    }

    /// The first value of a header. The data plane sends names in lower case.
    func value(ofHeader name: String) -> String? {
        var name = name
        return name.withUTF8 { wanted in
            bytes.withUnsafeBufferPointer { bytes in
                let found = fields.first { field in
                    field.name.count == wanted.count
                        && bytes[field.name].elementsEqual(wanted)
                }
                return found.map { String(decoding: bytes[$0.value], as: UTF8.self) }
            }
        }
    }

    /// Removes the router's own headers, but not those that `mutations` set.
    func removeOwned(sparing mutations: inout [HeaderMutation]) {
        for field in fields where bytes[field.name].starts(with: "x-".utf8) {
            let name = String(decoding: bytes[field.name], as: UTF8.self)
            guard RouterHeaders.owned.contains(name) else { continue }
            let isSet = mutations.contains {
                if case .set(name, _) = $0 { true } else { false }
            }
            if !isSet { mutations.append(.remove(name: name)) }
        }
    }
}
