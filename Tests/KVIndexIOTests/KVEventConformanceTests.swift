import Core
import Foundation
import KVIndexIO
import Testing

@Suite struct KVEventConformanceTests {
    private func load() throws -> String {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        return String(
            decoding: try Data(
                contentsOf: tests.appending(path: "Vectors/kv_event_samples.json")), as: UTF8.self)
    }

    @Test func ourVectorsPass() throws {
        let results = try KVEventConformance.check(Array(load().utf8))
        #expect(results.count == 54)
        for result in results { #expect(result.failure == nil, "\(result.name)") }
    }

    /// A check that could not fail would say nothing: one figure of each kind.
    @Test(arguments: [
        (#""hex":"93cb41d954fc4010"#, #""hex":"93cb41d954fc4011"#),
        (#"["BlockStored",[3236607068019569386,"#, #"["BlockRemoved",[3236607068019569386,"#),
        (#"["BlockStored",[3236607068019569386,"#, #"["BlockStored",[3236607068019569387,"#),
        ("[15724993675510655797],3236607068019569386,", "[15724993675510655797],3,"),
        ("null,[0,1,2,", "null,[0,1,3,"),
        ("15],16,null]],0]", "15],17,null]],0]"),
        ("15],16,1]],3]", "15],16,2]],3]"),
        ("15],16,1]],3]", "15],16,1]],4]"),
        (#"[["sql-adapter","img-aaaa"]]"#, #"[["sql-adapter","img"]]"#),
        (#"[["sql-adapter",["img-aaaa",-3]]]"#, #"[["sql-adapter",["img-aaaa",-2]]]"#),
        (#""CPU",null"#, #""GPU",null"#),
        (#""locality":"REMOTE""#, #""locality":"LOCAL""#),
        (#""group_idx":0"#, #""group_idx":1"#),
        (#"0,"full_attention""#, #"0,"mamba""#),
        // Frames: the numbers of live and replayed messages, and the end of a replay.
        (#","0000000000000001","#, #","0000000000000003","#),
        (#""0000000000000001"],"replay_reply""#, #""0000000000000002"],"replay_reply""#),
        (#"["","","ffffffffffffffff",""]]"#, #"["","","0000000000000003",""]]"#),
    ])
    func changedVectorsFail(part: String, change: String) throws {
        let text = try load().filter { !$0.isWhitespace }
        guard let range = text.range(of: part) else {
            Issue.record("\(part) is not in the file")
            return
        }
        let results = try KVEventConformance.check(
            Array(text.replacingCharacters(in: range, with: change).utf8))
        let failed = results.filter { $0.failure != nil }
        #expect((1...2).contains(failed.count))
    }

    @Test func malformedSamplesMustBeRefused() throws {
        func check(_ hex: String) throws -> [ConformanceResult] {
            try KVEventConformance.check(
                Array(#"{"samples": [{"name": "a", "hex": "\#(hex)", "error": true}]}"#.utf8))
        }
        #expect(try check("93c1").map(\.failure) == [nil])
        #expect(try check("92cb000000000000000090").first?.failure != nil)
    }

    @Test(arguments: [
        "", "{}", "[]", #"{"samples": []}"#, #"{"samples": [{}]}"#,
        #"{"captured_from_vllm_publisher_code": {"1": {"live": [[1]]}}}"#,
    ])
    func filesWithoutCases(text: String) {
        #expect(throws: VectorFileError.self) { try KVEventConformance.check(Array(text.utf8)) }
    }
}
