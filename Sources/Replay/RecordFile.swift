import Foundation
internal import Scan

/// A file of records, and the one before it. When it is full it takes the other's place.
struct RecordFile {
    private let path: String
    private let maximumBytes: Int
    private let plugins: [RecordedPlugin]
    private var handle: FileHandle
    private var size = 0
    /// The pools that lines of this file may name.
    private var pools: Set<Int> = []

    private init(path: String, maximumBytes: Int, plugins: [RecordedPlugin], handle: FileHandle) {
        self.path = path
        self.maximumBytes = maximumBytes
        self.plugins = plugins
        self.handle = handle
    }

    /// Goes on with the file if it exists. Each of the two holds up to `maximumBytes`.
    static func open(
        _ path: String, maximumBytes: Int, plugins: [RecordedPlugin]
    ) throws(RecordError) -> RecordFile {
        let failure = RecordError(file: path, line: nil, problem: "cannot be written")
        guard let handle = open(path), let end = try? handle.seekToEnd() else { throw failure }
        var file = RecordFile(
            path: path, maximumBytes: maximumBytes, plugins: plugins, handle: handle)
        file.size = Int(end)
        // A process that died may have left half a line.
        guard end == 0 || file.append([UInt8(ascii: "\n")]), file.append(file.header) else {
            throw failure
        }
        return file
    }

    private static func open(_ path: String) -> FileHandle? {
        let files = FileManager.default
        // Whoever may read requests may read records, and nobody else.
        if !files.fileExists(atPath: path) {
            _ = files.createFile(
                atPath: path, contents: nil, attributes: [.posixPermissions: 0o600])
        }
        return FileHandle(forWritingAtPath: path)
    }

    private var header: [UInt8] {
        Self.line { $0.header(plugins) }
    }

    private static func line(_ write: (inout JSONWriter) -> Void) -> [UInt8] {
        var json = JSONWriter()
        write(&json)
        return json.bytes + [UInt8(ascii: "\n")]
    }

    /// False if the record is too long for a file, or the file system refuses it; then nothing of
    /// it is in the file.
    mutating func write(_ record: DecisionRecord) -> Bool {
        let line = Self.line { $0.decision(record) }
        let generation = record.pool.generation
        func pool() -> [UInt8] { Self.line { $0.pool(record.pool) } }
        var lines = pools.contains(generation) ? line : pool() + line
        if size + lines.count > maximumBytes {
            lines = pool() + line
            guard header.count + lines.count <= maximumBytes, rotate() else { return false }
        }
        guard append(lines) else { return false }
        pools.insert(generation)
        return true
    }

    private mutating func rotate() -> Bool {
        let files = FileManager.default
        if files.fileExists(atPath: path) {
            try? files.removeItem(atPath: path + ".1")
            guard (try? files.moveItem(atPath: path, toPath: path + ".1")) != nil else {
                return false
            }
        }
        guard let next = Self.open(path) else { return false }
        try? handle.close()
        handle = next
        size = 0
        pools.removeAll()
        return append(header)
    }

    private mutating func append(_ bytes: [UInt8]) -> Bool {
        guard (try? handle.write(contentsOf: Data(bytes))) != nil else {
            // Half a line would spoil the next.
            try? handle.truncate(atOffset: UInt64(size))
            return false
        }
        size += bytes.count
        return true
    }
}
