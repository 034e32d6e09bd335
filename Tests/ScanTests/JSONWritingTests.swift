import Scan
import Testing

@Suite struct JSONWriterTests {
    @Test func commas() {
        var writer = JSONWriter(capacity: 64)
        writer.beginObject()
        writer.member("a", 1)
        writer.key("b")
        writer.beginArray()
        writer.beginObject()
        writer.endObject()
        writer.beginArray()
        writer.endArray()
        writer.null()
        writer.bool(false)
        writer.double(0.5)
        writer.double(.infinity)
        writer.int(.min)
        writer.endArray()
        writer.member("c", "x")
        writer.member("d", true)
        writer.member("e", 2.0)
        writer.key("f")
        writer.raw(Array("[1]".utf8))
        writer.endObject()
        #expect(
            String(decoding: writer.bytes, as: UTF8.self)
                == #"{"a":1,"b":[{},[],null,false,0.5,null,-9223372036854775808],"#
                + #""c":"x","d":true,"e":2.0,"f":[1]}"#)
    }

    @Test func serverSentEvents() {
        var writer = JSONWriter()
        for _ in 0..<2 {
            writer.outside("data: ")
            writer.beginObject()
            writer.endObject()
            writer.outside("\n\n")
        }
        #expect(String(decoding: writer.bytes, as: UTF8.self) == "data: {}\n\ndata: {}\n\n")
        writer.removeAll()
        writer.int(1)
        #expect(writer.bytes == [UInt8(ascii: "1")])
    }

    @Test func stringsReadBack() throws {
        let seed = newSeed("JSONWriterTests")
        var random = SeededRandom(seed: seed)
        for _ in 0..<500 {
            var text = ""
            for _ in 0..<random.below(80) {
                let limit: UInt32 = [0x30, 0x80, 0x800, 0x10ffff][random.below(4)]
                let value = UInt32.random(in: 0...limit, using: &random)
                Unicode.Scalar(value).map { text.unicodeScalars.append($0) }
            }
            var writer = JSONWriter()
            writer.string(text)
            #expect(
                try JSONDocument.parse(writer.bytes).root.string == text, "seed \(seed): \(text)")
            #expect(
                try JSONModel.foundation(writer.bytes) == .string(text), "seed \(seed): \(text)")
        }
    }
}

@Suite struct JSONEditTests {
    @Test func replacesInsertsAndRemoves() throws {
        var edit = try JSONEdit(
            parse(#"{ "model": "a" , "stream": true,"n":1 , "stream_options": {"x":1}}"#))
        edit.set("model", to: .string("b\""))
        edit.remove("stream_options")
        edit.set("max_tokens", to: .int(1))
        edit.set("kv_transfer_params", to: .raw(Array(#"{"do":true}"#.utf8)))
        #expect(
            text(edit)
                == #"{"model":"b\"","stream": true,"n":1,"max_tokens":1,"#
                + #""kv_transfer_params":{"do":true}}"#)
    }

    @Test func withoutChangesKeepsTheMembers() throws {
        let edit = try JSONEdit(parse(#" {"a": 1 ,  "b":[ 2 ]} "#))
        #expect(text(edit) == #"{"a": 1 ,  "b":[ 2 ]}"#)
    }

    @Test func nestedMembers() throws {
        let original = #"{"o":{"keep":1,"go":2},"s":5}"#
        var edit = try JSONEdit(parse(original))
        edit.set("o", "new", to: .bool(true))
        edit.remove("o", "go")
        edit.set("s", "inside", to: .null)
        edit.set("fresh", "x", to: .int(-1))
        #expect(
            text(edit)
                == #"{"o":{"keep":1,"new":true},"s":{"inside":null},"fresh":{"x":-1}}"#)
        var removals = try JSONEdit(parse(original))
        removals.remove("s", "inside")
        removals.remove("absent", "x")
        #expect(text(removals) == original)
    }

    @Test func duplicatesDoNotSurvive() throws {
        let document = try parse(#"{"a":1,"m":"old","b":2,"\u006d":"older","c":3}"#)
        var edit = try JSONEdit(document)
        edit.set("m", to: .string("new"))
        #expect(text(edit) == #"{"a":1,"b":2,"m":"new","c":3}"#)
        var removal = try JSONEdit(document)
        removal.remove("m")
        #expect(text(removal) == #"{"a":1,"b":2,"c":3}"#)
    }

    @Test func valuesOfOtherDocuments() throws {
        let other = try parse(#"{"kv": {"ids": [1, 2]}}"#)
        var edit = try JSONEdit(parse("{}"))
        edit.set("params", to: .value(try #require(other["kv"])))
        #expect(text(edit) == #"{"params":{"ids": [1, 2]}}"#)
    }

    @Test func theLastCallCounts() throws {
        var edit = try JSONEdit(parse(#"{"a":1}"#))
        edit.remove("a")
        edit.set("a", to: .int(2))
        edit.set("b", to: .int(3))
        edit.remove("b")
        #expect(text(edit) == #"{"a":2}"#)
    }

    @Test func onlyObjects() throws {
        #expect(throws: ScanError(offset: 1, reason: .kind)) { try JSONEdit(parse(" [1]")) }
    }

    @Test func agreesWithADictionary() throws {
        let seed = newSeed("JSONEditTests")
        var generator = JSONGenerator(random: SeededRandom(seed: seed))
        for _ in 0..<1000 {
            let (original, members) = generator.object()
            var expected = members
            var edit = try JSONEdit(parse(original))
            var keys = Array(members.keys.sorted())
            keys.append("new")
            for _ in 0..<generator.random.below(5) {
                let key = keys[generator.random.below(keys.count)]
                if generator.random.once(in: 2) {
                    edit.remove(key)
                    expected[key] = nil
                } else {
                    edit.set(key, to: .int(5))
                    expected[key] = .number(5)
                }
            }
            #expect(
                try JSONModel(JSONDocument.parse(edit.apply()).root) == .object(expected),
                "seed \(seed): \(original) to \(text(edit))")
        }
    }

    private func parse(_ text: String) throws(ScanError) -> JSONDocument {
        try JSONDocument.parse(Array(text.utf8))
    }

    private func text(_ edit: JSONEdit) -> String {
        String(decoding: edit.apply(), as: UTF8.self)
    }
}
