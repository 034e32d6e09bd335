/// Counts server-sent events as they pass, each of which is about a token.
package struct EventCounter {
    package private(set) var count = 0
    private var endsLine = false

    package init() {}

    package mutating func add(_ bytes: UnsafeRawBufferPointer) {
        for byte in bytes where byte != UInt8(ascii: "\r") {
            let isLineFeed = byte == UInt8(ascii: "\n")
            if isLineFeed, endsLine { count += 1 }
            endsLine = isLineFeed && !endsLine
        }
    }
}
