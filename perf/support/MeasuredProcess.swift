public import Foundation

/// What keeps a suite from measuring.
public struct PerfError: Error, CustomStringConvertible {
    /// What is wrong.
    public var description: String

    /// Makes an error.
    public init(_ description: String) {
        self.description = description
    }
}

/// Runs a suite; what keeps it from measuring becomes one line on standard error and exit code 1.
public func runSuite(_ body: () throws -> Void) {
    do {
        try body()
    } catch {
        FileHandle.standardError.write(Data("\(CommandLine.arguments[0]): \(error)\n".utf8))
        exit(1)
    }
}

/// A server in a process of its own, whose CPU time is read from outside.
public final class MeasuredProcess {
    /// What the process said first; empty if it was not asked for.
    public let firstLine: String

    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()
    private let clock: clockid_t

    /// Starts a program and waits for its first line, by which it says that it serves, or until it
    /// listens on `port`.
    public init(_ program: String, _ arguments: [String], listeningOn port: UInt16? = nil) throws {
        process.standardInput = input
        process.standardOutput = output
        try process.run(program, arguments)
        var clock = clockid_t()
        do {
            if let port {
                firstLine = ""
                try waitForListener(on: port)
            } else {
                firstLine = try output.fileHandleForReading.readLine()
            }
            guard clock_getcpuclockid(process.processIdentifier, &clock) == 0 else {
                throw PerfError("it has ended")
            }
        } catch {
            process.terminate()
            throw PerfError("\(program) did not start: \(error)")
        }
        self.clock = clock
    }

    /// The `llmd` that was built beside this program.
    public static func llmd(_ arguments: [String]) throws -> MeasuredProcess {
        try MeasuredProcess(
            ownURL.deletingLastPathComponent().appendingPathComponent("llmd").path, arguments)
    }

    /// This program again, in the role of its arguments.
    public static func itself(as arguments: String...) throws -> MeasuredProcess {
        try MeasuredProcess(ownURL.path, arguments)
    }

    private static var ownURL: URL {
        URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
    }

    deinit {
        process.terminate()
        process.waitUntilExit()
    }

    /// The port that the first line names.
    public var port: UInt16 {
        get throws {
            guard let port = UInt16(firstLine) else { throw PerfError("'\(firstLine)' is no port") }
            return port
        }
    }

    /// Lets the process do its job once: sends it a line and waits for the one that it answers.
    public func doOnce() throws {
        try input.fileHandleForWriting.write(contentsOf: Data("\n".utf8))
        _ = try output.fileHandleForReading.readLine()
    }

    /// Sends the process a line and returns the one that it answers.
    public func ask(_ line: String) throws -> String {
        try input.fileHandleForWriting.write(contentsOf: Data("\(line)\n".utf8))
        return try output.fileHandleForReading.readLine()
    }

    /// How much more memory than before the process has at the most while `body` runs, in bytes.
    public func peakBytes(during body: () throws -> Void) throws -> Int {
        // 5 lets the peak begin anew.
        try Data("5".utf8).write(to: URL(fileURLWithPath: "\(folder)/clear_refs"))
        let before = try statusBytes("VmRSS:")
        try body()
        return try statusBytes("VmHWM:") - before
    }

    private var folder: String { "/proc/\(process.processIdentifier)" }

    private func statusBytes(_ name: String) throws -> Int {
        let status = try String(contentsOfFile: "\(folder)/status", encoding: .utf8)
        guard let line = status.split(separator: "\n").first(where: { $0.hasPrefix(name) }),
            let number = line.split(whereSeparator: { " \t".contains($0) }).dropFirst().first,
            let kibibytes = Int(number)
        else { throw PerfError("the process tells no \(name)") }
        return kibibytes << 10
    }

    /// The CPU time so far, all threads, in nanoseconds.
    public var cpuNanoseconds: UInt64 { nanoseconds(clock) }
}

extension Process {
    /// Starts a program that ends with this one, even after kill -9. On the main thread: what the
    /// kernel waits for is the end of the thread that started the child.
    public func run(_ program: String, _ arguments: [String]) throws {
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw PerfError("there is no \(program)")
        }
        executableURL = URL(fileURLWithPath: "/usr/bin/setpriv")
        self.arguments = ["--pdeathsig", "KILL", "--", program] + arguments
        try run()
    }
}

/// The CPU time of this process so far, all threads, in nanoseconds.
public func processCPUNanoseconds() -> UInt64 {
    nanoseconds(CLOCK_PROCESS_CPUTIME_ID)
}

private func nanoseconds(_ clock: clockid_t) -> UInt64 {
    var time = timespec()
    clock_gettime(clock, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

extension FileHandle {
    fileprivate func readLine() throws -> String {
        var line = Data()
        while let byte = try read(upToCount: 1), byte != Data("\n".utf8) { line += byte }
        guard !line.isEmpty else { throw PerfError("it said nothing") }
        return String(decoding: line, as: UTF8.self)
    }
}
