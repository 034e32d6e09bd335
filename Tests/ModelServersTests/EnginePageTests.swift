import ModelServers
import Testing

@Suite struct EnginePageTests {
    @Test(arguments: [
        (#"{"object":"list","data":[{"id":"a"},{"id":"b"},{}]}"#, ["a", "b"]),
        (#"{"data":[]}"#, []), (#"{"data":1}"#, nil), ("x", nil),
    ])
    func readsModelLists(body: String, expected: [String]?) {
        #expect(EnginePage.models(from: Array(body.utf8))?.map(\.id) == expected)
    }

    @Test func readsWhatVLLMSaysOfItsModels() throws {
        let body =
            #"{"object":"list","data":[{"id":"tiny","object":"model","created":1,"#
            + #""owned_by":"vllm","root":"model/tiny","parent":null,"max_model_len":4096},"#
            + #"{"id":"adapter-a","root":"model/adapter-a","parent":"tiny","max_model_len":null}]}"#
        let models = try #require(EnginePage.models(from: Array(body.utf8)))
        #expect(models.map(\.id) == ["tiny", "adapter-a"])
        #expect(models.map(\.parent) == [nil, "tiny"])
        #expect(models.map(\.root) == ["model/tiny", "model/adapter-a"])
        #expect(models.map(\.maximumLength) == [4096, nil])
        #expect(models.map(\.owner) == ["vllm", nil])
    }
}
