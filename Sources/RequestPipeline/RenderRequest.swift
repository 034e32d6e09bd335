import Scan
import Scheduling

extension RequestAPI {
    /// Where engines show the token ids of such a request, as it is or as the chat that it amounts
    /// to; nil if they do not.
    var renderPath: String? {
        switch self {
        case .completions: "/v1/completions/render"
        case .chat, .messages, .responses: "/v1/chat/completions/render"
        default: nil
        }
    }

    /// The body to ask that of an engine with. `body` is the request's, as the engine will get it;
    /// `document` is what the client sent.
    ///
    /// Engines render chats only. vLLM makes a chat of Anthropic's messages and of OpenAI's
    /// responses itself: for plain text it is the one made here. Nil for anything else: such a
    /// request is routed without its tokens.
    func renderBody(_ document: JSONDocument, body: [UInt8], model: String) -> [UInt8]? {
        switch self {
        case .messages:
            Self.chat(
                model, system: document["system"], turns: document["messages"],
                unless: [document["tools"]])
        case .responses:
            Self.chat(
                model, system: document["instructions"], turns: document["input"],
                unless: [document["tools"], document["previous_response_id"], document["prompt"]])
        default: renderPath == nil ? nil : body
        }
    }

    private static func chat(
        _ model: String, system: JSONValue?, turns: JSONValue?, unless others: [JSONValue?]
    ) -> [UInt8]? {
        // An empty list of tools is as good as none.
        let isPlain = others.allSatisfy {
            $0 == nil || $0?.isNull == true || $0?.isEmptyList == true
        }
        guard isPlain, let turns else { return nil }
        var json = JSONWriter(capacity: turns.byteRange.count + 256)
        json.beginObject()
        json.member("model", model)
        json.key("messages")
        json.beginArray()
        if let system, !system.isNull {
            guard let text = system.plainText else { return nil }
            write("\"system\"".utf8, text, to: &json)
        }
        if turns.kind == .string {
            write("\"user\"".utf8, turns, to: &json)
        } else {
            guard turns.kind == .array, !turns.isEmptyList else { return nil }
            for turn in turns.elements {
                guard let role = turn["role"], role.kind == .string,
                    let text = turn["content"]?.plainText
                else { return nil }
                write(role.rawBytes, text, to: &json)
            }
        }
        json.endArray()
        json.endObject()
        return json.bytes
    }

    private static func write(
        _ role: some Collection<UInt8>, _ text: JSONValue, to json: inout JSONWriter
    ) {
        json.beginObject()
        json.key("role")
        json.raw(role)
        json.key("content")
        json.raw(text.rawBytes)
        json.endObject()
    }
}

extension JSONValue {
    fileprivate var isEmptyList: Bool {
        var elements = elements
        return kind == .array && elements.next() == nil
    }

    /// A content that is a string, or one part that is text.
    fileprivate var plainText: JSONValue? {
        if kind == .string { return self }
        var elements = elements
        guard let part = elements.next(), elements.next() == nil, let type = part["type"],
            ["text", "input_text", "output_text"].contains(where: type.equals),
            let text = part["text"], text.kind == .string
        else { return nil }
        return text
    }
}
