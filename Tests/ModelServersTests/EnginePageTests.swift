import ModelServers
import Testing

@Suite struct EnginePageTests {
    @Test(arguments: [
        (#"{"object":"list","data":[{"id":"a"},{"id":"b"},{}]}"#, ["a", "b"]),
        (#"{"data":[]}"#, []), (#"{"data":1}"#, nil), ("x", nil),
    ])
    func readsModelLists(body: String, expected: [String]?) {
        #expect(EnginePage.models(from: Array(body.utf8)) == expected)
    }
}
