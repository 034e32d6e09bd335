import Core
import Glibc
public import Logging
import Synchronization

/// The log level of a whole process, changeable while it runs. Any thread.
public final class SharedLogLevel: Sendable {
    private let severity: Atomic<Int>

    /// Starts at `level`.
    public init(_ level: Logger.Level) {
        severity = Atomic(Self.severity(of: level))
    }

    /// The level now.
    public var level: Logger.Level {
        get { Logger.Level.allCases[severity.load(ordering: .relaxed)] }
        set { severity.store(Self.severity(of: newValue), ordering: .relaxed) }
    }

    private static func severity(of level: Logger.Level) -> Int {
        Logger.Level.allCases.firstIndex(of: level) ?? 0
    }
}

/// Writes each log message as one line, with one system call, to a file descriptor.
public struct LineLogHandler: LogHandler {
    /// How a line looks.
    public enum Format: String, Sendable, CaseIterable {
        /// `2026-01-31T12:00:00.000Z info router: message key=value`
        case text
        /// An object with `time`, `level`, `logger`, `message`, and the metadata beside them.
        case json
    }

    /// Sent along with every message.
    public var metadata: Logger.Metadata = [:]
    private let label: String
    private let format: Format
    private let sharedLevel: SharedLogLevel
    private let descriptor: Int32
    private var ownLevel: Logger.Level?

    /// A handler for the logger `label`, which writes to standard error unless told otherwise.
    public init(
        label: String, format: Format, level: SharedLogLevel, descriptor: Int32 = 2
    ) {
        self.label = label
        self.format = format
        sharedLevel = level
        self.descriptor = descriptor
    }

    /// The process's level, until this logger is given its own.
    public var logLevel: Logger.Level {
        get { ownLevel ?? sharedLevel.level }
        set { ownLevel = newValue }
    }

    /// One entry of the metadata.
    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    /// Writes the line. A line that cannot be written is lost.
    public func log(event: LogEvent) {
        var fields = metadata
        if let own = event.metadata { fields.merge(own) { _, own in own } }
        if let error = event.error { fields["error"] = "\(error)" }
        let sorted = fields.sorted { $0.key < $1.key }.map { ($0.key, $0.value.description) }
        let message = event.message.description
        var line =
            switch format {
            case .text: textLine(event.level, message, sorted)
            case .json: jsonLine(event.level, message, sorted)
            }
        line.withUTF8 { emit($0) }
    }

    private func textLine(
        _ level: Logger.Level, _ message: String, _ fields: [(String, String)]
    ) -> String {
        var line = "\(timestamp()) \(level.rawValue) \(label): \(onOneLine(message))"
        for (key, value) in fields { line += " \(key)=\(quotedIfNeeded(value))" }
        return line + "\n"
    }

    private func jsonLine(
        _ level: Logger.Level, _ message: String, _ fields: [(String, String)]
    ) -> String {
        var line =
            "{\"time\":\"\(timestamp())\",\"level\":\"\(level.rawValue)\","
            + "\"logger\":\"\(label.jsonEscaped)\",\"message\":\"\(message.jsonEscaped)\""
        for (key, value) in fields {
            line += ",\"\(key.jsonEscaped)\":\"\(value.jsonEscaped)\""
        }
        return line + "}\n"
    }

    private func emit(_ line: UnsafeBufferPointer<UInt8>) {
        var rest = UnsafeRawBufferPointer(line)
        while let start = rest.baseAddress, !rest.isEmpty {
            let count = write(descriptor, start, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return }
            rest = UnsafeRawBufferPointer(rebasing: rest.dropFirst(count))
        }
    }
}

/// Control characters would let a client forge lines.
private func onOneLine(_ text: String) -> String {
    text.utf8.allSatisfy { $0 >= 0x20 } ? text : text.jsonEscaped
}

private func quotedIfNeeded(_ value: String) -> String {
    let isPlain =
        !value.isEmpty
        && value.utf8.allSatisfy {
            $0 > 0x20 && $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "=")
        }
    return isPlain ? value : "\"\(value.jsonEscaped)\""
}
