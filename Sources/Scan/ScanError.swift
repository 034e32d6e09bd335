internal import CScan

/// What was wrong with a text or a payload, and where.
public struct ScanError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Where the fault is: bytes from the start of the text.
    public var offset: Int
    /// What is wrong there.
    public var reason: Reason

    /// What can be wrong. The raw values are those of `cs_status`, which never change.
    public enum Reason: Int32, Sendable, CaseIterable {
        /// The machine has no memory for the result.
        case outOfMemory = -1
        /// JSON: the text is longer than 268,435,455 bytes.
        case tooLong = -2
        /// The text ends inside a value, or there is none.
        case truncated = -3
        /// JSON: arrays and objects are nested more than 128 deep.
        case tooDeep = -4
        /// JSON: something else stands where a value must.
        case expectedValue = -5
        /// JSON: something else stands where a property name must.
        case expectedKey = -6
        /// JSON: no colon follows a property name.
        case expectedColon = -7
        /// JSON: neither a comma nor the closing bracket follows a value.
        case expectedComma = -8
        /// JSON: there is text after the value.
        case trailingText = -9
        /// JSON: a malformed number.
        case number = -10
        /// JSON: an unescaped control character in a string.
        case controlCharacter = -11
        /// JSON: a malformed escape in a string.
        case escape = -12
        /// JSON: half of a surrogate pair in a string.
        case loneSurrogate = -13
        /// A string that is not UTF-8.
        case malformedUTF8 = -14
        /// Something else stands where a token id (0 to 4294967295) must.
        case tokenID = -15
        /// Prometheus: a malformed metric name.
        case metricName = -16
        /// Prometheus: malformed labels.
        case labels = -17
        /// Prometheus: a malformed value or timestamp.
        case sampleValue = -18
        /// msgpack: 0xc1, which starts no value.
        case formatByte = -19
        /// The value is of another kind than the one asked for.
        case kind = -20

        /// What is wrong, as half a sentence.
        public var message: String { String(cString: cs_status_message(cs_status(rawValue))) }
    }

    /// Makes an error.
    public init(offset: Int, reason: Reason) {
        self.offset = offset
        self.reason = reason
    }

    /// One line for people.
    public var description: String { "\(reason.message) at byte \(offset)" }

    /// Throws unless `status` is a success.
    static func check(_ status: cs_status, at offset: Int) throws(ScanError) {
        if let reason = Reason(rawValue: status.rawValue) {
            throw ScanError(offset: offset, reason: reason)
        }
    }
}
