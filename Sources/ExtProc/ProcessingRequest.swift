package import Net

/// One message from the data plane (`envoy.service.ext_proc.v3.ProcessingRequest`), read in place:
/// it borrows the buffer it was decoded from. Fields that the router does not use are skipped.
package struct ProcessingRequest {
    /// The part of the HTTP exchange that the message carries.
    package enum Event {
        case requestHeaders(HeaderList, endOfStream: Bool)
        case requestBody(UnsafeRawBufferPointer, endOfStream: Bool)
        case requestTrailers
        case responseHeaders(HeaderList, endOfStream: Bool)
        case responseBody(UnsafeRawBufferPointer, endOfStream: Bool)
        case responseTrailers
    }

    /// What the message carries.
    package let event: Event
    private let metadata: UnsafeRawBufferPointer

    /// Decodes one message.
    package init(decoding bytes: UnsafeRawBufferPointer) throws(ProtobufError) {
        var event: Event?
        var metadata = UnsafeRawBufferPointer(start: nil, count: 0)
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            guard case .bytes(let content) = field.value else { continue }
            switch field.number {
            case 2:
                let (headers, end) = try Self.headers(content)
                event = .requestHeaders(headers, endOfStream: end)
            case 3:
                let (headers, end) = try Self.headers(content)
                event = .responseHeaders(headers, endOfStream: end)
            case 4:
                let (body, end) = try Self.body(content)
                event = .requestBody(body, endOfStream: end)
            case 5:
                let (body, end) = try Self.body(content)
                event = .responseBody(body, endOfStream: end)
            case 6: event = .requestTrailers
            case 7: event = .responseTrailers
            case 8: metadata = content
            default: break
            }
        }
        guard let event else {
            throw ProtobufError(problem: "carries no part of a request or response")
        }
        self.event = event
        self.metadata = metadata
    }

    /// The endpoints among which the data plane wants the choice to be made, by
    /// `envoy.lb.subset_hint`; nil if it leaves the whole pool open.
    ///
    /// The value is a list of strings, or one string with commas; other list items are ignored.
    package func subsetHint() throws(ProtobufError) -> [String]? {
        guard
            let hint = try mapValue("envoy.lb.subset_hint", in: metadata),
            let value = try mapValue("x-gateway-destination-endpoint-subset", in: hint)
        else { return nil }
        var endpoints: [String] = []
        var reader = ProtobufReader(value)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (3, .bytes(let text)):
                endpoints += string(text).split(separator: ",").map(trimmed)
            case (6, .bytes(let list)):
                var items = ProtobufReader(list)
                while let item = try items.next() {
                    guard case (1, .bytes(let itemValue)) = (item.number, item.value),
                        let text = try stringValue(itemValue)
                    else { continue }
                    endpoints.append(text)
                }
            default: break
            }
        }
        return endpoints
    }

    /// The endpoint that served the request, which the data plane tells with the response.
    package func servedEndpoint() throws(ProtobufError) -> String? {
        guard
            let namespace = try mapValue("envoy.lb", in: metadata),
            let value = try mapValue("x-gateway-destination-endpoint-served", in: namespace)
        else { return nil }
        return try stringValue(value)
    }

    /// HttpHeaders: headers = 1, end_of_stream = 3.
    private static func headers(
        _ bytes: UnsafeRawBufferPointer
    ) throws(ProtobufError) -> (HeaderList, Bool) {
        var list = UnsafeRawBufferPointer(start: nil, count: 0)
        var end = false
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let content)): list = content
            case (3, .varint(let value)): end = value != 0
            default: break
            }
        }
        return (HeaderList(bytes: list), end)
    }

    /// HttpBody: body = 1, end_of_stream = 2.
    private static func body(
        _ bytes: UnsafeRawBufferPointer
    ) throws(ProtobufError) -> (UnsafeRawBufferPointer, Bool) {
        var body = UnsafeRawBufferPointer(start: nil, count: 0)
        var end = false
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            switch (field.number, field.value) {
            case (1, .bytes(let content)): body = content
            case (2, .varint(let value)): end = value != 0
            default: break
            }
        }
        return (body, end)
    }
}

/// The headers of a message (`envoy.config.core.v3.HeaderMap`), read in place.
package struct HeaderList {
    let bytes: UnsafeRawBufferPointer

    /// Where a part of a header lies in ``bytes``.
    func range(of part: UnsafeRawBufferPointer) -> Range<Int> {
        guard let start = part.baseAddress, let base = bytes.baseAddress else { return 0..<0 }
        let offset = start - base
        return offset..<offset + part.count
    }

    /// The status of a response; Envoy says `:status`, other data planes `status`. 0 without one.
    func status() throws(ProtobufError) -> Int {
        var status = 0
        try forEach { name, value in
            guard name.elementsEqual(":status".utf8) || name.elementsEqual("status".utf8) else {
                return
            }
            status = Int(String(decoding: value, as: UTF8.self)) ?? 0
        }
        return status
    }

    /// Calls `body` with each header in order. Envoy sends values in `raw_value`; `value` is
    /// taken where that is empty.
    package func forEach(
        _ body: (_ name: UnsafeRawBufferPointer, _ value: UnsafeRawBufferPointer) -> Void
    ) throws(ProtobufError) {
        var reader = ProtobufReader(bytes)
        while let field = try reader.next() {
            guard case (1, .bytes(let header)) = (field.number, field.value) else { continue }
            var name = UnsafeRawBufferPointer(start: nil, count: 0)
            var value = name
            var rawValue = name
            var parts = ProtobufReader(header)
            while let part = try parts.next() {
                switch (part.number, part.value) {
                case (1, .bytes(let content)): name = content
                case (2, .bytes(let content)): value = content
                case (3, .bytes(let content)): rawValue = content
                default: break
                }
            }
            body(name, rawValue.isEmpty ? value : rawValue)
        }
    }
}

/// The value of `key` in a message whose field 1 is a map: `core.Metadata`'s `filter_metadata`
/// and `google.protobuf.Struct` are both of that shape.
private func mapValue(
    _ key: StaticString, in map: UnsafeRawBufferPointer
) throws(ProtobufError) -> UnsafeRawBufferPointer? {
    let wanted = UnsafeRawBufferPointer(start: key.utf8Start, count: key.utf8CodeUnitCount)
    var found: UnsafeRawBufferPointer?
    var reader = ProtobufReader(map)
    while let field = try reader.next() {
        guard case (1, .bytes(let entry)) = (field.number, field.value) else { continue }
        var isWanted = false
        var value = UnsafeRawBufferPointer(start: nil, count: 0)
        var parts = ProtobufReader(entry)
        while let part = try parts.next() {
            switch (part.number, part.value) {
            case (1, .bytes(let content)): isWanted = content.elementsEqual(wanted)
            case (2, .bytes(let content)): value = content
            default: break
            }
        }
        if isWanted { found = value }
    }
    return found
}

/// The text of a `google.protobuf.Value`, if it is a string.
private func stringValue(_ value: UnsafeRawBufferPointer) throws(ProtobufError) -> String? {
    var text: String?
    var reader = ProtobufReader(value)
    while let field = try reader.next() {
        if case (3, .bytes(let content)) = (field.number, field.value) { text = string(content) }
    }
    return text
}

private func string(_ bytes: UnsafeRawBufferPointer) -> String {
    String(decoding: bytes, as: UTF8.self)
}

private func trimmed(_ text: Substring) -> String {
    String(text.drop(while: { $0 == " " }).reversed().drop(while: { $0 == " " }).reversed())
}
