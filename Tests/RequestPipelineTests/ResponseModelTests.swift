import Core
import ModelServers
import RequestPipeline
import Testing

@Suite struct ResponseModelTests {
    /// A session whose responses name `target` where the client said `model`.
    private func session(_ model: String, _ target: String) throws -> RequestSession {
        let fixture = try Fixture(policy: .load)
        fixture.pool.setRules(
            TrafficRules(rewrites: [rewrite("r", ([model], [(target, nil)]))]))
        let (session, step) = fixture.step(
            #"{"model":"\#(model.jsonEscaped)","prompt":[1]}"#)
        #expect(step.decision?.targetModel == target)
        session.responseStarted(status: 200)
        return session
    }

    private func rewritten(_ text: String, _ model: String, _ target: String) throws -> String {
        let session = try session(model, target)
        #expect(session.rewritesResponse)
        var out: [UInt8] = []
        for byte in text.utf8 {
            withUnsafeBytes(of: byte) { byte in
                session.rewriteResponse(byte) { out.append(contentsOf: $0) }
            }
        }
        session.finishResponse { out.append(contentsOf: $0) }
        session.completed(.finished)
        return String(decoding: out, as: UTF8.self)
    }

    @Test(arguments: [
        (#"{"id":"x","model":"t","choices":[]}"#, #"{"id":"x","model":"m","choices":[]}"#),
        ("data: {\"model\" : \n\"t\"}\n\n", "data: {\"model\" : \n\"m\"}\n\n"),
        (#"{"model":"t","message":{"model":"t"}}"#, #"{"model":"m","message":{"model":"m"}}"#),
        (#"{"text":"\"model\":\"t\""}"#, #"{"text":"\"model\":\"t\""}"#),
        (#"{"model":"tt"}{"model":"T"}{"model":""}"#, #"{"model":"tt"}{"model":"T"}{"model":""}"#),
        (#"["model","t"]{"models":"t"}"#, #"["model","t"]{"models":"t"}"#),
        (#"{"model":null,"model":"t"}"#, #"{"model":null,"model":"m"}"#),
        (#"{"model":"t"#, #"{"model":"t"#), ("", ""),
    ])
    func namesTheModelAsTheClientDid(response: String, expected: String) throws {
        #expect(try rewritten(response, "m", "t") == expected)
    }

    @Test func namesMayHoldAnyCharacter() throws {
        #expect(
            try rewritten(#"{"model":"a\"/é😀"}{"model":"a\"/\u00e9\ud83d\ude00"}"#, "ü\\", "a\"/é😀")
                == #"{"model":"ü\\"}{"model":"ü\\"}"#)
    }

    /// However a response is cut, the result is that of replacing in the whole of it.
    @Test(arguments: [UInt64](1...200))
    func piecesDoNotMatter(seed: UInt64) throws {
        var random = SeededGenerator(state: seed)
        let target = ["t", "model", "mo", "org/name-7b", "aab"].randomElement(using: &random)!
        let words = [
            "\"model\"", ":", " ", "\"", "\"\(target)\"", "\"\(target)x\"", target, "\n", "model",
            "\"model\":\"\(target)\"", "\"model\": \"\(target)\"", "{", "}", "data: ", "\"mod",
        ]
        let text = Array(
            (0..<200).map { _ in words.randomElement(using: &random)! }.joined().utf8)
        let session = try session("client/m", target)
        var out: [UInt8] = []
        var rest = text[...]
        while !rest.isEmpty {
            let piece = Array(rest.prefix(Int.random(in: 0...30, using: &random)))
            piece.withUnsafeBytes { bytes in
                session.rewriteResponse(bytes) { out.append(contentsOf: $0) }
            }
            rest = rest.dropFirst(piece.count)
        }
        session.finishResponse { out.append(contentsOf: $0) }
        session.completed(.finished)
        let expected = replaced(in: text, target, by: "client/m")
        #expect(
            String(decoding: out, as: UTF8.self) == String(decoding: expected, as: UTF8.self),
            "seed \(seed)")
    }

    /// What is held back is bounded: of all that was passed in, all but a name has come out.
    @Test func littleIsHeldBack() throws {
        let session = try session("m", "target")
        var out = 0
        let text = Array(
            (#"{"x":""# + String(repeating: "y", count: 1000) + #"","model":"targ"#).utf8)
        text.withUnsafeBytes { bytes in session.rewriteResponse(bytes) { out += $0.count } }
        #expect(out == text.count - 5)
        session.completed(.finished)
    }

    private func replaced(in text: [UInt8], _ target: String, by model: String) -> [UInt8] {
        let key = Array("\"model\"".utf8)
        let name = Array("\"\(target)\"".utf8)
        let spaces = Array(" \n".utf8)
        var out: [UInt8] = []
        var at = 0
        while at < text.count {
            guard text[at...].starts(with: key) else {
                out.append(text[at])
                at += 1
                continue
            }
            var end = at + key.count
            while end < text.count, spaces.contains(text[end]) { end += 1 }
            var isMatch = end < text.count && text[end] == UInt8(ascii: ":")
            end += 1
            while end < text.count, spaces.contains(text[end]) { end += 1 }
            isMatch = isMatch && end < text.count && text[end...].starts(with: name)
            if isMatch {
                out += text[at..<end] + "\"\(model)\"".utf8
                at = end + name.count
            } else {
                out.append(text[at])
                at += 1
            }
        }
        return out
    }
}
