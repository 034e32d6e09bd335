import Core
import Scan

/// A request's body while it comes. Belongs to its session.
struct BodyIntake {
    /// A body that is complete.
    enum Content {
        case json(JSONDocument)
        /// Of a request that is not looked into.
        case opaque([UInt8])
    }

    /// How much has come.
    private(set) var byteCount = 0

    private let maximumBytes: Int
    private let contentLength: Int?
    private let scanner: JSONScanner?
    private var unread: [UInt8] = []

    /// Awaits a body. `contentLength` is what the client said of it; `isOpaque`: it is not looked
    /// into.
    init(contentLength: Int?, maximumBytes: Int, isOpaque: Bool) {
        self.contentLength = contentLength
        self.maximumBytes = maximumBytes
        let expected = min(contentLength ?? 0, maximumBytes)
        if isOpaque {
            scanner = nil
            unread.reserveCapacity(expected)
        } else {
            scanner = JSONScanner(expectedBytes: expected)
        }
    }

    /// Throws 413 if the client has announced too much.
    func checkLength() throws(APIError) {
        try check(contentLength ?? 0)
    }

    /// Takes in a piece, of any length; copied.
    ///
    /// - Throws: 413 if it is too much, 400 if it is no JSON and should be.
    mutating func append(_ bytes: UnsafeRawBufferPointer) throws(APIError) {
        byteCount += bytes.count
        try check(byteCount)
        guard let scanner else { return unread.append(contentsOf: bytes) }
        do {
            try scanner.feed(bytes)
        } catch {
            throw .malformedJSON(error)
        }
    }

    /// The body is complete: hands it over.
    ///
    /// - Throws: 400 if it is no whole JSON text and should be.
    mutating func finish() throws(APIError) -> Content {
        guard let scanner else {
            defer { unread = [] }
            return .opaque(unread)
        }
        do {
            return .json(try scanner.finish())
        } catch {
            throw .malformedJSON(error)
        }
    }

    private func check(_ count: Int) throws(APIError) {
        if count > maximumBytes { throw .tooLarge(limitBytes: maximumBytes) }
    }
}
