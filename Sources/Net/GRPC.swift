public import Core

/// How a gRPC call ended. Codes: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
public struct GRPCStatus: Error, Hashable, Sendable, CustomStringConvertible {
    /// The numeric code; 0 is success.
    public var code: Int
    /// For people; may be empty.
    public var message: String

    /// A status; the codes have names below.
    public init(code: Int, message: String = "") {
        self.code = code
        self.message = message
    }

    /// Success.
    public static let ok = GRPCStatus(code: 0)

    /// The client ended the call.
    public static func cancelled(_ message: String) -> GRPCStatus {
        .init(code: 1, message: message)
    }
    /// The caller's mistake.
    public static func invalidArgument(_ message: String) -> GRPCStatus {
        .init(code: 3, message: message)
    }
    /// Time ran out.
    public static func deadlineExceeded(_ message: String) -> GRPCStatus {
        .init(code: 4, message: message)
    }
    /// There is no such thing.
    public static func notFound(_ message: String) -> GRPCStatus {
        .init(code: 5, message: message)
    }
    /// A quota or a bound is used up.
    public static func resourceExhausted(_ message: String) -> GRPCStatus {
        .init(code: 8, message: message)
    }
    /// There is no such method.
    public static func unimplemented(_ message: String) -> GRPCStatus {
        .init(code: 12, message: message)
    }
    /// The server's mistake.
    public static func `internal`(_ message: String) -> GRPCStatus {
        .init(code: 13, message: message)
    }
    /// The server cannot be reached or cannot serve now.
    public static func unavailable(_ message: String) -> GRPCStatus {
        .init(code: 14, message: message)
    }

    /// One line for people.
    public var description: String {
        message.isEmpty ? "gRPC status \(code)" : "gRPC status \(code): \(message)"
    }

    private static let okTrailers: HTTPHeaders = ["grpc-status": "0"]

    /// `grpc-status` and, unless empty, `grpc-message`.
    public var trailers: HTTPHeaders {
        if self == .ok { return Self.okTrailers }
        var trailers: HTTPHeaders = ["grpc-status": String(code)]
        if !message.isEmpty { trailers.append("grpc-message", percentEncoded(message)) }
        return trailers
    }

    /// Reads the two fields; nil without a `grpc-status`.
    public init?(trailers: HTTPHeaders) {
        guard let code = trailers[first: "grpc-status"].flatMap({ Int($0) }) else { return nil }
        self.init(code: code, message: percentDecoded(trailers[first: "grpc-message"] ?? ""))
    }
}

/// Cuts a gRPC body into messages. Sans I/O. Compressed messages are refused: `grpc-encoding` is
/// never offered.
public struct GRPCFrameReader {
    private static let prefixBytes = 5
    private let maximumMessageBytes: Int
    private var held: [UInt8] = []

    /// - Parameter maximumMessageBytes: A longer message is an error before it is read.
    public init(maximumMessageBytes: Int = 4 << 20) {
        self.maximumMessageBytes = maximumMessageBytes
    }

    /// Takes bytes and calls `body` with every complete message, valid only during the call.
    /// Messages that lie whole in `bytes` are not copied.
    ///
    /// - Throws: ``NetError/bodyTooLarge(limit:)`` or ``NetError/protocolViolation(_:)``; the
    ///   reader must not be used afterwards.
    public mutating func feed(
        _ bytes: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Void
    ) throws(NetError) {
        var rest = UnsafeRawBufferPointer(rebasing: bytes[...])
        while !held.isEmpty, !rest.isEmpty {
            let missing = try missingBytes()
            let taken = min(missing, rest.count)
            held.append(contentsOf: rest[..<taken])
            rest = UnsafeRawBufferPointer(rebasing: rest[taken...])
            if held.count >= Self.prefixBytes, try missingBytes() == 0 {
                let message = held
                held.removeAll(keepingCapacity: true)
                message.withUnsafeBytes {
                    body(UnsafeRawBufferPointer(rebasing: $0[Self.prefixBytes...]))
                }
            }
        }
        while rest.count >= Self.prefixBytes {
            let end = Self.prefixBytes + (try messageBytes(rest))
            guard rest.count >= end else { break }
            body(UnsafeRawBufferPointer(rebasing: rest[Self.prefixBytes..<end]))
            rest = UnsafeRawBufferPointer(rebasing: rest[end...])
        }
        held.append(contentsOf: rest)
    }

    /// Checks that the body did not stop inside a message.
    public func finish() throws(NetError) {
        guard held.isEmpty else { throw .protocolViolation("gRPC body ends inside a message") }
    }

    /// What the prefix or message begun in `held` still needs.
    private func missingBytes() throws(NetError) -> Int {
        guard held.count >= Self.prefixBytes else { return Self.prefixBytes - held.count }
        return Self.prefixBytes + (try messageBytes(held)) - held.count
    }

    /// Reads a prefix: a flag, and the length in network order.
    private func messageBytes(_ bytes: some Collection<UInt8>) throws(NetError) -> Int {
        guard bytes.first == 0 else { throw .protocolViolation("compressed gRPC message") }
        let count = bytes.dropFirst().prefix(4).reduce(0) { $0 << 8 | Int($1) }
        guard count <= maximumMessageBytes else { throw .bodyTooLarge(limit: maximumMessageBytes) }
        return count
    }
}

/// The five bytes before a gRPC message of `count` bytes.
private func withPrefix<Result>(
    of count: Int, _ body: (UnsafeRawBufferPointer) -> Result
) -> Result {
    var prefix = (UInt8(0), UInt32(count).bigEndian)
    return withUnsafeBytes(of: &prefix.1) { length in
        withUnsafeTemporaryAllocation(byteCount: 5, alignment: 1) { bytes in
            bytes[0] = prefix.0
            for index in 0..<4 { bytes[index + 1] = length[index] }
            return body(UnsafeRawBufferPointer(bytes))
        }
    }
}

private let responseHead = HTTPResponseHead(
    status: 200, headers: ["content-type": "application/grpc"])

extension ServerExchange {
    /// Starts a gRPC response; messages follow.
    public func respondGRPC() {
        respond(responseHead)
    }

    /// Writes one message; as ``write(_:)-(UnsafeRawBufferPointer)``.
    @discardableResult
    public func writeGRPCMessage(_ message: UnsafeRawBufferPointer) -> Bool {
        withPrefix(of: message.count) { prefix in
            let isBelow = write(prefix)
            return message.isEmpty ? isBelow : write(message)
        }
    }

    /// Ends a gRPC response with its status.
    public func finishGRPC(_ status: GRPCStatus) {
        finish(trailers: status.trailers)
    }

    /// Ends a call before its first message.
    public func refuseGRPC(_ status: GRPCStatus) {
        respondGRPC()
        finishGRPC(status)
    }
}

extension ClientExchange {
    /// Writes one message; as ``write(_:)-(UnsafeRawBufferPointer)``.
    @discardableResult
    public func writeGRPCMessage(_ message: UnsafeRawBufferPointer) -> Bool {
        withPrefix(of: message.count) { prefix in
            let isBelow = write(prefix)
            return message.isEmpty ? isBelow : write(message)
        }
    }
}

extension HTTPRequestHead {
    /// The head of a gRPC call; `path` is `/package.Service/Method`.
    public static func grpc(
        path: String, authority: String? = nil, metadata: HTTPHeaders = [:]
    ) -> HTTPRequestHead {
        var headers = metadata
        headers.set("content-type", "application/grpc")
        headers.set("te", "trailers")
        return HTTPRequestHead(
            method: "POST", target: path, authority: authority, headers: headers)
    }
}

extension HTTPClient {
    /// A unary gRPC call. Any thread. The client's configuration must have `http2`.
    ///
    /// - Returns: The response message.
    /// - Throws: The call's status; transport errors become `unavailable`.
    public func unary(
        path: String, to address: SocketAddress, message: [UInt8], metadata: HTTPHeaders = [:],
        timeout: Duration
    ) async throws(GRPCStatus) -> [UInt8] {
        var body = withPrefix(of: message.count) { Array($0) }
        body.append(contentsOf: message)
        let response: HTTPResponse
        do throws(NetError) {
            response = try await send(
                .grpc(path: path, metadata: metadata), to: address, body: body, timeout: timeout)
        } catch {
            if error == .timeout(.deadline) { throw .deadlineExceeded(error.description) }
            throw .unavailable(error.description)
        }
        // A response without messages may carry its status in the head (trailers-only).
        let fields = response.trailers ?? response.head.headers
        guard let status = GRPCStatus(trailers: fields) else {
            throw .internal("HTTP status \(response.status) without a grpc-status")
        }
        guard status.code == 0 else { throw status }
        var messages: [[UInt8]] = []
        var reader = GRPCFrameReader(maximumMessageBytes: response.body.count)
        let result = response.body.withUnsafeBytes { bytes in
            Result { () throws(NetError) in
                try reader.feed(bytes) { messages.append(Array($0)) }
                try reader.finish()
            }
        }
        if case .failure(let error) = result { throw .internal(error.description) }
        guard let message = messages.first, messages.count == 1 else {
            throw .internal("\(messages.count) messages instead of one")
        }
        return message
    }
}

/// Percent-encodes what `grpc-message` must not carry as it is.
private func percentEncoded(_ text: String) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    var bytes: [UInt8] = []
    for byte in text.utf8 {
        if byte >= 0x20, byte <= 0x7E, byte != UInt8(ascii: "%") {
            bytes.append(byte)
        } else {
            bytes += [UInt8(ascii: "%"), digits[Int(byte >> 4)], digits[Int(byte & 15)]]
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}

private func percentDecoded(_ text: String) -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        if byte == UInt8(ascii: "%"),
            let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
        {
            bytes.append(value)
            rest = rest.dropFirst(2)
        } else {
            bytes.append(byte)
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}
