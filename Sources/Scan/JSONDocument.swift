internal import CScan

// Sendable: the tape is this object's alone, is not written after `init` and freed in `deinit`.
/// A JSON text that was found valid, and the places of its values in it.
///
/// Values are decoded when they are asked for. Of duplicate keys the last one counts.
public final class JSONDocument: @unchecked Sendable {
    /// The text.
    public let bytes: [UInt8]
    private let tape: cs_json_tape

    /// Takes over `tape`, the complete tape of `bytes`.
    init(bytes: [UInt8], tape: cs_json_tape) {
        self.bytes = bytes
        self.tape = tape
    }

    deinit {
        var tape = tape
        cs_json_tape_free(&tape)
    }

    /// The value that is the whole text.
    public var root: JSONValue { JSONValue(document: self, index: 0) }

    /// The member of the root object with this key.
    public subscript(key: String) -> JSONValue? { root[key] }

    /// One token per value or key, in the order of the text; token 0 is the root.
    var tokens: UnsafePointer<cs_json_token> { UnsafePointer(tape.tokens) }
}
