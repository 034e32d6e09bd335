import Foundation
import Telemetry
import Testing

@Suite(.timeLimit(.minutes(1))) final class LogFileTests {
    private let folder = FileManager.default.temporaryDirectory
        .appending(path: "log-\(UUID().uuidString)")
    private let dropped = MetricsRegistry().counter("dropped_total", "Lines that were lost.")

    init() throws {
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(at: folder)
    }

    private func path(_ name: String) -> String { folder.appending(path: name).path }

    private func text(_ name: String) throws -> String {
        try String(contentsOfFile: path(name), encoding: .utf8)
    }

    @Test func appendsLinesInOrder() throws {
        try "old\n".write(toFile: path("a"), atomically: true, encoding: .utf8)
        let log = try LogFile(path: path("a"), dropped: dropped)
        for number in 0..<1000 { log.write(Array("\(number)\n".utf8)) }
        log.flush(within: .seconds(30))
        #expect(try text("a") == "old\n" + (0..<1000).map { "\($0)\n" }.joined())
        #expect(dropped.value == 0)
    }

    @Test func aRenamedFileIsOpenedAnew() throws {
        let log = try LogFile(path: path("a"), dropped: dropped)
        log.write(Array("1\n".utf8))
        log.flush(within: .seconds(30))
        try FileManager.default.moveItem(atPath: path("a"), toPath: path("a.1"))
        log.write(Array("2\n".utf8))
        log.flush(within: .seconds(30))
        #expect(try text("a.1") == "1\n")
        #expect(try text("a") == "2\n")
        try FileManager.default.removeItem(atPath: path("a"))
        log.write(Array("3\n".utf8))
        log.flush(within: .seconds(30))
        #expect(try text("a") == "3\n")
    }

    /// A FIFO that nobody empties stands for a disk that hangs.
    @Test func whoWritesNeverWaits() throws {
        #expect(mkfifo(path("f"), 0o600) == 0)
        let reader = open(path("f"), O_RDONLY | O_NONBLOCK)
        defer { close(reader) }
        let log = try LogFile(path: path("f"), dropped: dropped, maximumPendingBytes: 1 << 20)
        let line = [UInt8](repeating: UInt8(ascii: "x"), count: 1023) + [UInt8(ascii: "\n")]
        for _ in 0..<8192 { log.write(line) }
        #expect(dropped.value > 0)
        // Once it is read again, what was kept comes out whole.
        let kept = 8192 - dropped.value
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while bytes.count < kept * 1024 {
            var ready = pollfd(fd: reader, events: Int16(POLLIN), revents: 0)
            try #require(poll(&ready, 1, 30_000) > 0)
            let count = read(reader, &buffer, buffer.count)
            bytes += buffer.prefix(max(0, count))
        }
        let isWhole = bytes.elementsEqual((0..<kept).flatMap { _ in line })
        #expect(isWhole)
    }

    @Test func whatCannotBeOpenedIsSaid() {
        let path = path("none/a")
        let error = #expect(throws: LogFileError.self) {
            try LogFile(path: path, dropped: dropped)
        }
        #expect(error?.description == "\(path): No such file or directory")
    }
}
