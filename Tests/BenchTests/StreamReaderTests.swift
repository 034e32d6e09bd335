import Bench
import Core
import Testing

@Suite struct StreamReaderTests {
    private static let stream =
        "data: {\"choices\":[{\"text\":\"a\"}],\"usage\":null}\n\n"
        + "data: {\"choices\":[{\"text\":\"b\"}]}\n\n"
        + "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n"
        + "data: [DONE]\n\n"

    private func read(_ pieces: [[UInt8]]) -> StreamReader {
        var reader = StreamReader()
        for (index, piece) in pieces.enumerated() {
            piece.withUnsafeBytes {
                reader.feed($0, now: MonotonicTime(nanoseconds: UInt64(index)))
            }
        }
        return reader
    }

    @Test func anyCutGivesTheSame() {
        let bytes = Array(Self.stream.utf8)
        for cut in 0...bytes.count {
            let reader = read([Array(bytes[..<cut]), Array(bytes[cut...])])
            #expect(reader.isDone)
            #expect(reader.promptTokens == 7)
            #expect(reader.completionTokens == 2)
            #expect(reader.failure == nil)
        }
        #expect(read(bytes.map { [$0] }).completionTokens == 2)
    }

    @Test func firstTokenIsTheFirstCompleteEvent() {
        let bytes = Array(Self.stream.utf8)
        #expect(read([Array(bytes[..<10]), Array(bytes[10...])]).firstTokenAt?.nanoseconds == 1)
        #expect(read([bytes]).firstTokenAt?.nanoseconds == 0)
    }

    @Test func errorEventsAreFailures() {
        let reader = read([Array("data: {\"error\":{\"message\":\"engine died\"}}\n\n".utf8)])
        #expect(reader.failure == "engine died")
        #expect(!reader.isDone)
    }
}
