internal import Core
internal import Relay

/// The headers of a request or response, kept as the data plane sent them: one copy, read when
/// asked for.
struct RequestHeaders: HeaderLookup {
    private let bytes: [UInt8]

    /// No headers.
    init() {
        bytes = []
    }

    /// Copies a list.
    init(_ list: HeaderList) throws(ProtobufError) {
        // Faults show here, once; later reads cannot fail.
        try list.forEach { _, _ in }
        bytes = Array(list.bytes)
    }

    /// The first value of a header. The data plane sends names in lower case.
    func value(ofHeader name: String) -> String? {
        var found: String?
        var name = name
        name.withUTF8 { wanted in
            forEach { name, value in
                guard found == nil, name.elementsEqual(wanted) else { return }
                found = String(decoding: value, as: UTF8.self)
            }
        }
        return found
    }

    /// The status of a response; Envoy says `:status`, other data planes `status`. 0 without one.
    var status: Int {
        let text = value(ofHeader: ":status") ?? value(ofHeader: "status")
        return text.flatMap { Int($0) } ?? 0
    }

    /// Removes the router's own headers, but not those that `mutations` set.
    func removals(sparing mutations: [HeaderMutation]) -> [HeaderMutation] {
        var removals: [HeaderMutation] = []
        forEach { name, _ in
            guard name.starts(with: "x-".utf8) else { return }
            let name = String(decoding: name, as: UTF8.self)
            guard RouterHeaders.owned.contains(name) else { return }
            let isSet = mutations.contains {
                if case .set(name, _) = $0 { true } else { false }
            }
            if !isSet { removals.append(.remove(name: name)) }
        }
        return removals
    }

    private func forEach(_ body: (UnsafeRawBufferPointer, UnsafeRawBufferPointer) -> Void) {
        bytes.withUnsafeBytes { bytes in
            // Was checked by init.
            try? HeaderList(bytes: bytes).forEach(body)
        }
    }
}
