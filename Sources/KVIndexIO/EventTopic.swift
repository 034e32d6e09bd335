/// llm-d's convention for the topic of KV events: `kv@<engine>@<model>`, the engine by its address.
struct EventTopic: Equatable {
    let engine: String?
    /// The rest of the topic: a model's name may contain `@`.
    let model: String?

    init(_ topic: UnsafeRawBufferPointer) {
        let parts = topic.split(
            separator: UInt8(ascii: "@"), maxSplits: 2, omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0].elementsEqual("kv".utf8) else {
            engine = nil
            model = nil
            return
        }
        engine = String(decoding: parts[1], as: UTF8.self)
        model = String(decoding: parts[2], as: UTF8.self)
    }
}
