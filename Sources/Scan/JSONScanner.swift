internal import CScan

/// Takes in a JSON body chunk by chunk and scans it as it comes (RFC 8259, strict).
///
/// The chunks are gathered into one array, the only copy that is made. An error is thrown by the
/// first call that can know of it. One thread at a time.
public final class JSONScanner {
    /// The body so far.
    public private(set) var bytes: [UInt8]
    private var scanner = cs_json_scanner()
    private var tape = cs_json_tape()

    /// An empty scanner with room for a body of `expectedBytes`, such as a content length that
    /// the caller has found acceptable.
    public init(expectedBytes: Int = 0) {
        bytes = []
        bytes.reserveCapacity(expectedBytes)
    }

    deinit { cs_json_tape_free(&tape) }

    /// Appends a chunk of any length and scans what it completes.
    ///
    /// - Throws: ``ScanError`` with the offset in the body, in this call and all later ones.
    public func feed(_ chunk: UnsafeRawBufferPointer) throws(ScanError) {
        bytes.append(contentsOf: chunk)
        try scan()
    }

    /// Ends the body and hands it over. The scanner is empty afterwards and may be used again.
    ///
    /// - Throws: ``ScanError``, ``ScanError/Reason/truncated`` if the value is not complete.
    public func finish() throws(ScanError) -> JSONDocument {
        try scan()
        try ScanError.check(cs_json_finish(&scanner, &tape), at: Int(scanner.at_bytes))
        let document = JSONDocument(bytes: bytes, tape: tape)
        bytes = []
        scanner = cs_json_scanner()
        tape = cs_json_tape()
        return document
    }

    /// How much of the body is scanned; what is behind it, if anything, is the start of an escape
    /// or the like.
    var scannedCount: Int { Int(scanner.at_bytes) }

    /// What has begun so far, one token per value or key.
    var tokens: UnsafePointer<cs_json_token> { UnsafePointer(tape.tokens) }

    /// How many tokens there are.
    var tokenCount: UInt32 { tape.count }

    fileprivate func scan() throws(ScanError) {
        let status = bytes.withUnsafeBufferPointer { known in
            // A scanner that was fed nothing has nothing to look at, and perhaps no address.
            guard let body = known.baseAddress else { return CS_OK }
            return cs_json_feed(&scanner, &tape, body, known.count)
        }
        try ScanError.check(status, at: Int(scanner.at_bytes))
    }

    fileprivate init(whole bytes: [UInt8]) {
        self.bytes = bytes
    }
}

extension JSONDocument {
    /// Scans a whole body, which is kept without a copy.
    ///
    /// - Throws: ``ScanError`` with the offset in the body.
    public static func parse(_ bytes: [UInt8]) throws(ScanError) -> JSONDocument {
        try JSONScanner(whole: bytes).finish()
    }
}
