import Foundation

/// Reads the decisions of a record file, one at a time. One thread at a time.
///
/// A line that cannot be read is skipped and counted: a process that died may have left half a
/// one.
public final class RecordReader {
    /// A decision, and the plugins of the process that made it.
    public struct Entry {
        /// The decision.
        public var decision: DecisionRecord
        /// The plugins of the configuration that it was made with.
        public var plugins: Set<RecordedPlugin>
    }

    /// How many lines could not be read.
    public private(set) var skippedLineCount = 0
    /// What was wrong with the first of them.
    public private(set) var firstProblem: RecordError?

    /// Longer than any line that is written.
    private static let maximumLineBytes = 64 << 20

    private let file: String
    private let handle: FileHandle
    private var buffer: [UInt8] = []
    private var start = 0
    private var line = 0
    private var plugins: Set<RecordedPlugin>?
    private var pools: [Int: DecisionRecord.Pool] = [:]

    /// Opens a file.
    public init(file: String) throws(RecordError) {
        self.file = file
        guard let handle = FileHandle(forReadingAtPath: file) else {
            throw RecordError(file: file, line: nil, problem: "cannot be read")
        }
        self.handle = handle
    }

    deinit { try? handle.close() }

    /// The next decision; nil at the end.
    ///
    /// - Throws: ``RecordError`` if this is no record file, or of another version.
    public func next() throws(RecordError) -> Entry? {
        while let bytes = try nextLine() {
            line += 1
            if bytes.isEmpty { continue }
            do throws(RecordProblem) {
                if let entry = try read(bytes) { return entry }
            } catch {
                let error = RecordError(file: file, line: line, problem: "the line \(error.text)")
                guard plugins != nil else { throw error }
                firstProblem = firstProblem ?? error
                skippedLineCount += 1
            }
        }
        return nil
    }

    private func read(_ bytes: [UInt8]) throws(RecordProblem) -> Entry? {
        let read = try RecordLine(bytes, pools: pools)
        switch read {
        case .header(let plugins):
            self.plugins = Set(plugins)
            pools = [:]
            return nil
        case .pool(let pool):
            pools[pool.generation] = pool
            return nil
        case .decision(let decision):
            guard let plugins else { throw RecordProblem("comes before the first header") }
            return Entry(decision: decision, plugins: plugins)
        }
    }

    private func nextLine() throws(RecordError) -> [UInt8]? {
        var searched = start
        while true {
            if let end = buffer[searched...].firstIndex(of: UInt8(ascii: "\n")) {
                defer { start = end + 1 }
                return Array(buffer[start..<end])
            }
            searched = buffer.count
            guard buffer.count - start <= Self.maximumLineBytes else {
                throw RecordError(file: file, line: line + 1, problem: "the line has no end")
            }
            let chunk: Data?
            do {
                chunk = try handle.read(upToCount: 1 << 20)
            } catch {
                throw RecordError(file: file, line: line + 1, problem: "cannot be read: \(error)")
            }
            guard let chunk, !chunk.isEmpty else {
                let rest = Array(buffer[start...])
                start = buffer.count
                return rest.isEmpty ? nil : rest
            }
            if start > 0 {
                buffer.removeFirst(start)
                searched -= start
                start = 0
            }
            buffer.append(contentsOf: chunk)
        }
    }
}
