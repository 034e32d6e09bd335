package import Core
internal import Net
package import Scheduling

/// Writes messages to the data plane (`envoy.service.ext_proc.v3.ProcessingResponse`), each as a
/// gRPC frame, one after the other into a buffer that is kept from call to call.
package struct ProcessingResponseWriter {
    /// Envoy takes 64 KiB at most in one body chunk.
    package static let maximumChunkBytes = 62_000

    /// Which half of the HTTP exchange a message is about.
    package enum Side: UInt32 {
        case request
        case response

        fileprivate var headersField: UInt32 { 1 + rawValue }
        fileprivate var bodyField: UInt32 { 3 + rawValue }
        fileprivate var trailersField: UInt32 { 5 + rawValue }
    }

    private var writer = ProtobufWriter()

    /// An empty buffer.
    package init() {}

    /// The frames written since ``removeAll()``.
    package var frames: [UInt8] { writer.bytes }

    /// Forgets what was written and keeps the memory.
    package mutating func removeAll() {
        writer.removeAll()
    }

    /// The answer to headers. `destination` is what the load balancer reads: it goes into the
    /// dynamic metadata, and the route is computed anew.
    package mutating func headers(
        _ side: Side, _ mutations: [HeaderMutation], destination: String? = nil
    ) {
        writer.frame { writer in
            writer.message(side.headersField) { response in
                response.message(1) { common in
                    common.message(2) { Self.write(mutations, to: &$0) }
                    if destination != nil { common.unsigned(5, 1) }
                }
            }
            if let destination { Self.metadata(destination, to: &writer) }
        }
    }

    /// The answer to a body: `body` in chunks of ``maximumChunkBytes``, at least one, of which
    /// the last ends the stream if `endOfStream`, and tells the `attributes`.
    package mutating func body(
        _ side: Side, _ body: UnsafeRawBufferPointer, endOfStream: Bool,
        attributes: [ReportedAttribute] = []
    ) {
        var start = 0
        repeat {
            let end = min(start + Self.maximumChunkBytes, body.count)
            chunk(
                side, UnsafeRawBufferPointer(rebasing: body[start..<end]),
                endOfStream: endOfStream && end == body.count,
                attributes: end == body.count ? attributes : [])
            start = end
        } while start < body.count
    }

    /// The answer to trailers: nothing changed.
    package mutating func trailers(_ side: Side, attributes: [ReportedAttribute] = []) {
        writer.frame { writer in
            writer.head(side.trailersField, count: 0)
            Self.metadata(attributes, to: &writer)
        }
    }

    /// Ends the exchange with a response of the router's own.
    package mutating func immediate(
        status: Int, headers: [HeaderMutation], body: String
    ) {
        writer.frame { writer in
            writer.message(7) { immediate in
                immediate.message(1) { $0.unsigned(1, UInt64(clamping: status)) }
                immediate.message(2) { Self.write(headers, to: &$0) }
                immediate.string(3, body)
            }
        }
    }

    /// BodyResponse{response=1: CommonResponse{body_mutation=3: BodyMutation{
    /// streamed_response=3: StreamedBodyResponse{body=1, end_of_stream=2}}}}.
    private mutating func chunk(
        _ side: Side, _ body: UnsafeRawBufferPointer, endOfStream: Bool,
        attributes: [ReportedAttribute]
    ) {
        let streamed =
            (body.isEmpty ? 0 : ProtobufWriter.fieldBytes(body.count)) + (endOfStream ? 2 : 0)
        let mutation = ProtobufWriter.fieldBytes(streamed)
        let common = ProtobufWriter.fieldBytes(mutation)
        writer.frame { writer in
            writer.head(side.bodyField, count: ProtobufWriter.fieldBytes(common))
            writer.head(1, count: common)
            writer.head(3, count: mutation)
            writer.head(3, count: streamed)
            if !body.isEmpty { writer.data(1, body) }
            if endOfStream { writer.unsigned(2, 1) }
            Self.metadata(attributes, to: &writer)
        }
    }

    /// dynamic_metadata=8: a Struct with a Struct for each namespace.
    private static func metadata(
        _ attributes: [ReportedAttribute], to writer: inout ProtobufWriter
    ) {
        guard !attributes.isEmpty else { return }
        writer.message(8) { fields in
            for namespace in Set(attributes.map(\.namespace)).sorted() {
                fields.message(1) { entry in
                    entry.string(1, namespace)
                    entry.message(2) { value in
                        value.message(5) { inner in
                            for attribute in attributes where attribute.namespace == namespace {
                                inner.message(1) { innerEntry in
                                    innerEntry.string(1, attribute.name)
                                    innerEntry.message(2) { $0.double(2, attribute.value) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// HeaderMutation{set_headers=1: HeaderValueOption{header=1: HeaderValue}, remove_headers=2}.
    /// Values travel as `raw_value`; the append action stays unset, as the protocol wants it for
    /// "add or replace".
    private static func write(_ mutations: [HeaderMutation], to writer: inout ProtobufWriter) {
        for mutation in mutations {
            switch mutation {
            case .set(let name, let value):
                writer.message(1) { option in
                    option.message(1) { header in
                        header.string(1, name)
                        header.string(3, value)
                    }
                }
            case .remove(let name): writer.string(2, name)
            }
        }
    }

    /// dynamic_metadata=8: {"envoy.lb": {"x-gateway-destination-endpoint": destination}}.
    private static func metadata(_ destination: String, to writer: inout ProtobufWriter) {
        writer.message(8) { fields in
            fields.message(1) { entry in
                entry.string(1, "envoy.lb")
                entry.message(2) { value in
                    value.message(5) { inner in
                        inner.message(1) { innerEntry in
                            innerEntry.string(1, "x-gateway-destination-endpoint")
                            innerEntry.message(2) { $0.string(3, destination) }
                        }
                    }
                }
            }
        }
    }
}
