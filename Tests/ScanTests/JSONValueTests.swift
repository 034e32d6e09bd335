import Scan
import Testing

@Suite struct JSONValueTests {
    private let document: JSONDocument

    init() throws {
        let text = #"""
            {"model": "m", "n": -7, "big": 18446744073709551616, "real": 2.5e3, "yes": true,
             "none": null, "messages": [{"role": "user"}, {"content": ["a\n\u00e9", "plain"]}],
             "prompt": [1, 2, 4294967295], "bad": [1, -2], "model": "last", "odd key": {"x": []}}
            """#
        document = try JSONDocument.parse(Array(text.utf8))
    }

    @Test func scalars() {
        #expect(document["n"]?.int == -7)
        #expect(document["n"]?.double == -7)
        #expect(document["big"]?.int == nil)
        #expect(document["big"]?.double == 18_446_744_073_709_551_616)
        #expect(document["real"]?.int == nil)
        #expect(document["real"]?.double == 2500)
        #expect(document["yes"]?.bool == true)
        #expect(document["yes"]?.int == nil)
        #expect(document["none"]?.isNull == true)
        #expect(document["none"]?.bool == nil)
        #expect(document["absent"] == nil)
        #expect(document["n"]?.string == nil)
        #expect(document["n"]?["x"] == nil)
        #expect(document["n"].map { Array($0.elements).isEmpty } == true)
    }

    @Test func strings() {
        let content = document["messages"]?.elements.dropFirst().first { _ in true }?["content"]
        let strings = content.map { Array($0.elements) } ?? []
        #expect(strings.map(\.string) == ["a\né", "plain"])
        #expect(strings.first?.equals("a\né") == true)
        #expect(strings.first?.equals("a\né!") == false)
        #expect(strings.first?.equals("a\n") == false)
        #expect(strings.last?.equals("plain") == true)
        #expect(strings.last?.equals("") == false)
        #expect(document["n"]?.equals("-7") == false)
        #expect(strings.last.map { Array($0.rawBytes) } == Array("\"plain\"".utf8))
    }

    @Test func theLastDuplicateCounts() {
        #expect(document["model"]?.string == "last")
        #expect(document.root.members.filter { $0.key == "model" }.count == 2)
    }

    @Test func extremesOfInt() throws {
        let document = try JSONDocument.parse(
            Array("[9223372036854775807,-9223372036854775808,9223372036854775808]".utf8))
        #expect(document.root.elements.map(\.int) == [Int.max, Int.min, nil])
    }

    @Test func doublesAreCorrectlyRounded() throws {
        let seed = newSeed("JSONValueTests doubles")
        var random = SeededRandom(seed: seed)
        for _ in 0..<20_000 {
            let value = Double(bitPattern: random.next())
            guard value.isFinite else { continue }
            let document = try JSONDocument.parse(Array(value.description.utf8))
            #expect(document.root.double?.bitPattern == value.bitPattern, "seed \(seed): \(value)")
        }
    }

    @Test func tokenIDs() throws {
        var ids: [UInt32] = [9]
        try document["prompt"]?.tokenIDs(into: &ids)
        #expect(ids == [9, 1, 2, .max])
        let bad = try #require(document["bad"])
        let offset = try #require(Array(bad.elements).last).byteRange.lowerBound
        #expect(throws: ScanError(offset: offset, reason: .tokenID)) {
            try bad.tokenIDs(into: &ids)
        }
        #expect(throws: ScanError(offset: 0, reason: .kind)) {
            try document.root.tokenIDs(into: &ids)
        }
        #expect(ids == [9, 1, 2, .max])
        var none: [UInt32] = []
        try JSONDocument.parse(Array("[]".utf8)).root.tokenIDs(into: &none)
        #expect(none.isEmpty)
    }

    @Test func manyTokenIDs() throws {
        let seed = newSeed("JSONValueTests token ids")
        var random = SeededRandom(seed: seed)
        let ids = (0..<50_000).map { _ in
            UInt32.random(in: 0...(UInt32.max >> random.below(32)), using: &random)
        }
        let separator = random.once(in: 2) ? "," : ", "
        let text = "[" + ids.map(String.init).joined(separator: separator) + "]"
        var read: [UInt32] = []
        try JSONDocument.parse(Array(text.utf8)).root.tokenIDs(into: &read)
        #expect(read == ids, "seed \(seed)")
    }

    @Test func paths() {
        #expect(document.root.path == "")
        #expect(document["n"]?.path == "n")
        let messages = document["messages"].map { Array($0.elements) } ?? []
        #expect(
            messages.last?["content"]?.elements.map(\.path) == [
                "messages[1].content[0]", "messages[1].content[1]",
            ])
        #expect(document["odd key"]?["x"]?.path == "odd key.x")
    }
}
