import ExtProc
import Foundation
import Testing

/// What plugins report about responses reaches the data plane.
@Suite struct AttributeTests {
    /// `dynamic_metadata` {"envoy.lb": {"cost": 12}} as protobuf has it.
    private static let metadata =
        "42230a210a08656e766f792e6c6212152a130"
        + "a110a04636f73741209110000000000002840"

    private static let plugins = """
        {type: first-picker}, {type: request-attribute-reporter, parameters: {attributes: [{
          key: {name: cost}, expression: "usage.prompt_tokens + 2 * usage.completion_tokens",
          condition: "has(usage.completion_tokens)"}]}}
        """

    private func answered(_ pieces: [String], trailers: Bool = false) throws -> [String] {
        let conversation = Conversation(try Fixture(plugins: Self.plugins))
        try conversation.post()
        try conversation.send(Request.responseHeaders([(":status", "200")]))
        var frames: [String] = []
        for (number, piece) in pieces.enumerated() {
            let isLast = number == pieces.count - 1
            try conversation.send(Request.responseBody(piece, end: isLast && !trailers))
            frames.append(hex(conversation.frames))
        }
        if trailers {
            #expect(try conversation.send(Request.responseTrailers) == [.trailers(.response)])
            frames.append(hex(conversation.frames))
        }
        return frames
    }

    @Test func theLastMessageTellsIt() throws {
        let pieces = [
            "data: {}\n\n", #"data: {"usage":{"prompt_tokens":2,"completion_tokens":5}}"#,
        ]
        let frames = try answered(pieces)
        #expect(!frames[0].contains(Self.metadata))
        #expect(frames[1].hasSuffix(Self.metadata))
    }

    @Test func trailersTellItToo() throws {
        let usage = #"{"usage":{"prompt_tokens":2,"completion_tokens":5}}"#
        let frames = try answered([usage], trailers: true)
        #expect(!frames[0].contains(Self.metadata))
        #expect(frames[1].hasSuffix(Self.metadata))
    }

    @Test func nothingIsToldWithoutUsage() throws {
        #expect(try answered(["{}"])[0].contains("656e766f79") == false)
    }

    /// Of a body that takes several messages the last one has it.
    @Test func aLongBodyTellsItOnce() throws {
        let padding = String(repeating: "x", count: 70_000)
        let usage = #"","usage":{"prompt_tokens":2,"completion_tokens":5}}"#
        let frames = try answered([#"{"text":""# + padding + usage])
        #expect(frames[0].components(separatedBy: Self.metadata).count == 2)
        #expect(frames[0].hasSuffix(Self.metadata))
    }
}
