import Foundation
import Logging
import Telemetry
import Testing

@Suite struct LineLogHandlerTests {
    private let level = SharedLogLevel(.info)

    @Test func text() throws {
        let lines = try lines(.text) { logger in
            logger.info("started", metadata: ["port": "8000", "why": "a \"b\"", "none": ""])
            logger.warning("two\nlines")
        }
        #expect(lines.count == 2)
        #expect(
            lines[0].wholeMatch(
                of: /\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info router: started .*/) != nil,
            "\(lines[0])")
        #expect(lines[0].hasSuffix(#": started none="" port=8000 why="a \"b\"""#))
        #expect(lines[1].hasSuffix(#" warning router: two\nlines"#))
    }

    @Test func json() throws {
        let lines = try lines(.json) { logger in
            logger.error("no \"luck\"\n", metadata: ["request_id": "req-1", "n": "1"])
        }
        let object = try #require(
            try JSONSerialization.jsonObject(with: Data(lines[0].utf8)) as? [String: String])
        #expect(object["level"] == "error")
        #expect(object["logger"] == "router")
        #expect(object["message"] == "no \"luck\"\n")
        #expect(object["request_id"] == "req-1")
        #expect(object["n"] == "1")
        #expect(object["time"]?.count == 24)
    }

    @Test func theTimeIsNow() throws {
        let before = Date()
        let line = try #require(try lines(.text) { $0.info("x") }.first)
        let style = Date.ISO8601FormatStyle(includingFractionalSeconds: true)
        let time = try style.parse(String(line.prefix(24)))
        #expect(time.timeIntervalSince(before) > -0.01)
        #expect(time.timeIntervalSince(Date()) < 0.01)
    }

    @Test func theLevelChangesAtRunTime() throws {
        let lines = try lines(.text) { logger in
            logger.debug("1")
            level.level = .debug
            logger.debug("2")
            level.level = .error
            logger.info("3")
            var own = logger
            own.logLevel = .trace
            own.trace("4")
            logger.trace("5")
        }
        #expect(lines.map { $0.suffix(1) } == ["2", "4"])
        #expect(level.level == .error)
    }

    @Test func metadataOfTheMessageWins() throws {
        let lines = try lines(.text) { logger in
            var logger = logger
            logger[metadataKey: "k"] = "logger"
            logger.info("x", metadata: ["k": "message"])
            logger.info("y")
        }
        #expect(lines[0].hasSuffix("k=message") && lines[1].hasSuffix("k=logger"))
    }

    /// What `body` logs, line by line.
    private func lines(
        _ format: LineLogHandler.Format, _ body: (Logger) -> Void
    ) throws -> [String] {
        let pipe = Pipe()
        let level = level
        let descriptor = pipe.fileHandleForWriting.fileDescriptor
        let logger = Logger(label: "router") { label in
            LineLogHandler(label: label, format: format, level: level, descriptor: descriptor)
        }
        body(logger)
        try pipe.fileHandleForWriting.close()
        let text = String(
            decoding: try pipe.fileHandleForReading.readToEnd() ?? Data(), as: UTF8.self)
        #expect(text.isEmpty || text.hasSuffix("\n"))
        return text.split(separator: "\n").map(String.init)
    }
}
