import Core

/// Gives the model in a response the name that the client asked for, while the response streams
/// by.
///
/// The key `"model"` with its bare quotes cannot stand inside a JSON string, so that finding it
/// needs no parsing: neither of one JSON object nor of a stream of them, and bytes may be cut
/// anywhere. Of the response no more is held back than the name of a model is long.
struct ResponseModelRewriter {
    private enum State {
        case text
        /// So many bytes of the key were seen.
        case key(Int)
        /// The key has ended; at once behind it, its last quote may begin another.
        case afterKey(isFresh: Bool)
        case beforeValue
        /// Inside a value that may be the name; what was seen of it is held back.
        case value
    }

    private static let key = Array("\"model\"".utf8)
    /// The name to replace as engines may write it: as UTF-8, and in ASCII as Python does.
    private let names: [[UInt8]]
    private let replacement: [UInt8]
    private var state = State.text
    private var held: [UInt8] = []

    /// Makes a rewriter for one response.
    init(from target: String, to model: String) {
        names = [target.jsonEscaped, target.asciiEscaped].map { Array("\"\($0)\"".utf8) }
        replacement = Array("\"\(model.jsonEscaped)\"".utf8)
    }

    /// Hands the rewritten bytes to `emit`, in any number of pieces that are valid during the call.
    mutating func rewrite(
        _ bytes: UnsafeRawBufferPointer, emit: (UnsafeRawBufferPointer) -> Void
    ) {
        // The first byte that was neither emitted nor held back.
        var start = 0
        for (index, byte) in bytes.enumerated() {
            switch state {
            case .beforeValue where byte == quote:
                if start < index {
                    emit(UnsafeRawBufferPointer(rebasing: bytes[start..<index]))
                }
                hold(byte)
                start = index + 1
            case .value:
                hold(byte)
                start = index + 1
                if names.contains(held) {
                    replacement.withUnsafeBytes(emit)
                    held.removeAll(keepingCapacity: true)
                    state = .text
                } else if !names.contains(where: { $0.starts(with: held) }) {
                    // It is another value. A quote in it may begin a key.
                    state = .text
                    for byte in held { advance(byte) }
                    finish(emit: emit)
                }
            default: advance(byte)
            }
        }
        if start < bytes.count { emit(UnsafeRawBufferPointer(rebasing: bytes[start...])) }
    }

    /// Hands over what is held back: the response is over.
    mutating func finish(emit: (UnsafeRawBufferPointer) -> Void) {
        if !held.isEmpty { held.withUnsafeBytes(emit) }
        held.removeAll(keepingCapacity: true)
    }

    private mutating func hold(_ byte: UInt8) {
        held.append(byte)
        state = .value
    }

    /// Looks for the key and the colon behind it.
    private mutating func advance(_ byte: UInt8) {
        switch state {
        case .key(let count) where byte == Self.key[count]:
            state = count + 1 == Self.key.count ? .afterKey(isFresh: true) : .key(count + 1)
        case .afterKey where byte == UInt8(ascii: ":"): state = .beforeValue
        case .afterKey where isSpace(byte): state = .afterKey(isFresh: false)
        case .afterKey(isFresh: true) where byte == Self.key[1]: state = .key(2)
        case .beforeValue where isSpace(byte): break
        default: state = byte == quote ? .key(1) : .text
        }
    }
}

private let quote = UInt8(ascii: "\"")

private func isSpace(_ byte: UInt8) -> Bool {
    byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
}

extension String {
    /// The string between the quotes of a JSON string that is all ASCII.
    fileprivate var asciiEscaped: String {
        var escaped = ""
        for unit in jsonEscaped.utf16 {
            if unit < 0x80 {
                escaped.unicodeScalars.append(Unicode.Scalar(UInt8(unit)))
            } else {
                let hex = String(unit, radix: 16)
                escaped += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            }
        }
        return escaped
    }
}
