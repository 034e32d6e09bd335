internal import CNet
internal import Synchronization

#if canImport(Glibc)
    internal import Glibc
#elseif canImport(Musl)
    internal import Musl
#endif

/// A child process, watched by a loop. It lives until the child ended, whether or not anybody
/// holds it; if the loop ends first, the child is killed.
public final class Subprocess {
    /// Where the child's standard output or standard error goes.
    public enum Output {
        /// To this process's own.
        case inherit
        /// Nowhere.
        case null
        /// To a body that is called on the loop with every line, without its line feed. A line
        /// longer than 64 KiB comes in pieces.
        case lines((String) -> Void)

        fileprivate var kind: cn_output {
            switch self {
            case .inherit: CN_OUTPUT_INHERIT
            case .null: CN_OUTPUT_NULL
            case .lines: CN_OUTPUT_PIPE
            }
        }
    }

    /// How a child ended.
    public struct Exit: Hashable, Sendable, CustomStringConvertible {
        /// The exit code; 0 if a signal ended it.
        public var code: Int32
        /// The signal that ended it; 0 if none did.
        public var signal: Int32

        /// An exit as the system reports it.
        public init(code: Int32, signal: Int32) {
            self.code = code
            self.signal = signal
        }

        /// Whether it ended with code 0 by itself.
        public var isSuccess: Bool { code == 0 && signal == 0 }

        /// One phrase for people.
        public var description: String {
            signal == 0 ? "exit code \(code)" : "signal \(signal)"
        }
    }

    /// The child's process id.
    public private(set) var pid: Int32 = 0

    private var handle: OpaquePointer?
    private var lines: [LineSplitter?]
    private var onExit: ((Exit) -> Void)?

    /// Starts `path` with `arguments` (without the program's own name). On the loop.
    ///
    /// - Parameters:
    ///   - environment: All of the child's variables; nil: this process's own.
    ///   - diesWithParent: Tells the child to call ``followParent()``; only programs that do so
    ///     obey.
    ///   - onExit: Called once, on the loop, after the last line.
    public init(
        _ path: String, arguments: [String], environment: [String: String]? = nil,
        standardOutput: Output = .inherit, standardError: Output = .inherit,
        diesWithParent: Bool = false, on loop: EventLoop, onExit: @escaping (Exit) -> Void
    ) throws(NetError) {
        loop.preconditionInLoop()
        self.onExit = onExit
        lines = [standardOutput, standardError].map { output in
            if case .lines(let body) = output { LineSplitter(body) } else { nil }
        }
        var variables = environment
        if diesWithParent {
            variables = variables ?? Subprocess.ownEnvironment()
            variables?[Subprocess.parentVariable] = String(getpid())
        }
        let user = Unmanaged.passRetained(self)
        let status = withCStrings([path] + arguments) { arguments in
            withCStrings(variables?.map { "\($0.key)=\($0.value)" }) { environment in
                var events = cn_process_events()
                events.output = { user, stream, bytes, count in
                    Unmanaged<Subprocess>.fromOpaque(user.unsafelyUnwrapped).takeUnretainedValue()
                        .lines[Int(stream) - 1]?
                        .feed(UnsafeRawBufferPointer(start: bytes, count: count))
                }
                events.exited = { user, code, signal in
                    Unmanaged<Subprocess>.fromOpaque(user.unsafelyUnwrapped).takeRetainedValue()
                        .exited(Exit(code: Int32(truncatingIfNeeded: code), signal: signal))
                }
                return cn_process_spawn(
                    loop.handle, path, arguments, environment, standardOutput.kind,
                    standardError.kind, &events, user.toOpaque(), &handle)
            }
        }
        guard status == CN_OK, let handle else {
            user.release()
            throw status == CN_NOT_FOUND ? .notFound(path) : NetError(status)
        }
        pid = cn_process_pid(handle)
    }

    /// Sends a signal; does nothing once the child has ended. On the loop.
    public func kill(signal: Int32) {
        guard let handle else { return }
        // CN_NOT_FOUND means that it ended and the exit is on its way.
        _ = cn_process_kill(handle, signal)
    }

    /// If a parent started this process with `diesWithParent`, this process ends with it from now
    /// on, even after kill -9 of the parent. Call it first thing in `main`.
    public static func followParent() {
        guard let text = getenv(parentVariable), let parent = Int32(String(cString: text)) else {
            return
        }
        unsetenv(parentVariable)
        cn_follow_parent(parent, SIGKILL)
    }

    private static let parentVariable = "LLMD_PARENT_PID"

    private static func ownEnvironment() -> [String: String] {
        var variables: [String: String] = [:]
        var entry = environ
        while let text = entry.pointee {
            let pair = String(cString: text).split(
                separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            if pair.count == 2 { variables[String(pair[0])] = String(pair[1]) }
            entry += 1
        }
        return variables
    }

    private func exited(_ exit: Exit) {
        handle = nil
        for index in lines.indices { lines[index]?.finish() }
        let body = onExit
        onExit = nil
        lines = [nil, nil]
        body?(exit)
    }
}

/// Cuts bytes into lines.
private struct LineSplitter {
    private static let limit = 64 << 10
    private var held: [UInt8] = []
    private let body: (String) -> Void

    init(_ body: @escaping (String) -> Void) {
        self.body = body
    }

    mutating func feed(_ bytes: UnsafeRawBufferPointer) {
        var rest = bytes[...]
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            held.append(contentsOf: rest[..<end])
            emit()
            rest = rest[(end + 1)...]
        }
        held.append(contentsOf: rest)
        if held.count > Self.limit { emit() }
    }

    mutating func finish() {
        if !held.isEmpty { emit() }
    }

    private mutating func emit() {
        body(String(decoding: held, as: UTF8.self))
        held.removeAll(keepingCapacity: true)
    }
}
