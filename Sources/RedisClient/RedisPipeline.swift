/// Commands in the form in which they go over the wire, one behind the other in one buffer.
///
/// Encoded here and not by hiredis, whose formatter allocates for each command and copies twice.
public struct RedisPipeline: Sendable {
    /// The commands, encoded.
    public private(set) var bytes: [UInt8] = []
    /// The number of commands, and so of replies.
    public private(set) var count = 0

    private var missingArguments = 0

    /// Makes an empty pipeline.
    public init() {}

    /// Adds a command with its arguments.
    public mutating func append(_ command: String, _ arguments: String...) {
        begin(command, argumentCount: arguments.count)
        for argument in arguments { add(argument) }
    }

    /// Begins a command; exactly `argumentCount` calls of `add` must follow.
    public mutating func begin(_ command: String, argumentCount: Int) {
        precondition(missingArguments == 0, "the command before has arguments missing")
        count += 1
        missingArguments = argumentCount + 1
        appendHeader(UInt8(ascii: "*"), argumentCount + 1)
        add(command)
    }

    /// Adds an argument to the command that was begun.
    public mutating func add(_ text: String) {
        beginArgument(byteCount: text.utf8.count)
        bytes.append(contentsOf: text.utf8)
        endArgument()
    }

    /// Adds an argument to the command that was begun, in decimal.
    public mutating func add(_ number: some FixedWidthInteger) {
        add(String(number))
    }

    /// Adds an argument of bytes to the command that was begun.
    public mutating func add(_ argument: some Collection<UInt8>) {
        beginArgument(byteCount: argument.count)
        bytes.append(contentsOf: argument)
        endArgument()
    }

    /// Adds an argument of two parts to the command that was begun: a key is often a prefix and a
    /// name.
    public mutating func add(_ first: some Collection<UInt8>, _ second: some Collection<UInt8>) {
        beginArgument(byteCount: first.count + second.count)
        bytes.append(contentsOf: first)
        bytes.append(contentsOf: second)
        endArgument()
    }

    /// Forgets the commands, and keeps the memory.
    public mutating func removeAll() {
        bytes.removeAll(keepingCapacity: true)
        count = 0
        missingArguments = 0
    }

    var isComplete: Bool { missingArguments == 0 }

    private mutating func beginArgument(byteCount: Int) {
        precondition(missingArguments > 0, "the command has all its arguments")
        missingArguments -= 1
        appendHeader(UInt8(ascii: "$"), byteCount)
    }

    private mutating func endArgument() {
        bytes.append(UInt8(ascii: "\r"))
        bytes.append(UInt8(ascii: "\n"))
    }

    private mutating func appendHeader(_ sign: UInt8, _ number: Int) {
        bytes.append(sign)
        if number < 10 {
            bytes.append(UInt8(ascii: "0") + UInt8(number))
        } else {
            bytes.append(contentsOf: String(number).utf8)
        }
        endArgument()
    }
}
