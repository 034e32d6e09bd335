import Core
import Scan

/// Reads fields of a request body and words what is wrong with them as vLLM does, which shows
/// pydantic's errors.
struct RequestBodyReader {
    private let object: JSONValue
    private let path: String

    /// - Throws: 400 if the body is not an object.
    init(_ document: JSONDocument) throws(APIError) {
        object = document.root
        path = "body"
        guard object.kind == .object else {
            throw Self.error(
                "model_attributes_type", path,
                "Input should be a valid dictionary or object to extract fields from", object)
        }
    }

    /// Reads a part of a body; `path` is where it stands.
    init(_ object: JSONValue, path: String) {
        self.object = object
        self.path = path
    }

    /// The value of a field, if it is there and not null.
    func value(_ field: String) -> JSONValue? {
        object[field].flatMap { $0.isNull ? nil : $0 }
    }

    func string(_ field: String) throws(APIError) -> String? {
        guard let value = value(field) else { return nil }
        guard let string = value.string else {
            throw mismatch("string_type", "Input should be a valid string", value, field)
        }
        return string
    }

    func requiredString(_ field: String) throws(APIError) -> String {
        guard let string = try string(field) else {
            throw mismatch("missing", "Field required", object, field)
        }
        return string
    }

    func int(_ field: String) throws(APIError) -> Int? {
        guard let value = value(field) else { return nil }
        if let int = value.int ?? value.double.flatMap({ Int(exactly: $0) }) { return int }
        if let text = value.string {
            if let int = Int(text) { return int }
            throw mismatch(
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer", value,
                field)
        }
        throw mismatch("int_type", "Input should be a valid integer", value, field)
    }

    func number(_ field: String) throws(APIError) -> Double? {
        guard let value = value(field) else { return nil }
        guard let number = value.double else {
            throw mismatch("float_type", "Input should be a valid number", value, field)
        }
        return number
    }

    func bool(_ field: String) throws(APIError) -> Bool? {
        guard let value = value(field) else { return nil }
        guard let bool = value.bool else {
            throw mismatch("bool_type", "Input should be a valid boolean", value, field)
        }
        return bool
    }

    /// `stop`: a string or a list of them.
    func stop() throws(APIError) -> [String] {
        guard let value = value("stop") else { return [] }
        if let string = value.string { return [string] }
        guard value.kind == .array else {
            throw mismatch("string_type", "Input should be a valid string", value, "stop")
        }
        var stop: [String] = []
        for element in value.elements {
            guard let string = element.string else {
                throw mismatch("string_type", "Input should be a valid string", element, "stop")
            }
            stop.append(string)
        }
        return stop
    }

    /// A list of token ids.
    func tokenIDs(_ value: JSONValue, _ field: String) throws(APIError) -> [UInt32] {
        var tokens: [UInt32] = []
        do {
            try value.tokenIDs(into: &tokens)
        } catch {
            throw mismatch("int_type", "Input should be a valid integer", value, field)
        }
        return tokens
    }

    /// `messages`, each with a role and a content that is text or a list of text parts.
    func messages() throws(APIError) -> [ChatTemplate.Message] {
        guard let value = value("messages") else {
            throw mismatch("missing", "Field required", object, "messages")
        }
        guard value.kind == .array else {
            throw mismatch("list_type", "Input should be a valid list", value, "messages")
        }
        var messages: [ChatTemplate.Message] = []
        for (index, element) in value.elements.enumerated() {
            let message = RequestBodyReader(element, path: "\(path).messages.\(index)")
            messages.append(
                .init(role: try message.requiredString("role"), content: try message.content()))
        }
        return messages
    }

    private func content() throws(APIError) -> String {
        guard let value = value("content") else { return "" }
        if let text = value.string { return text }
        guard value.kind == .array else {
            throw mismatch("string_type", "Input should be a valid string", value, "content")
        }
        var text = ""
        for (index, part) in value.elements.enumerated() {
            guard part["type"]?.equals("text") == true, let piece = part["text"]?.string else {
                throw .badRequest(
                    "This model takes text alone; another part stands at "
                        + "\(path).content.\(index).", param: "\(path).content.\(index)")
            }
            text += piece
        }
        return text
    }

    /// An error of the kind that pydantic reports for a field.
    func mismatch(
        _ type: String, _ message: String, _ input: JSONValue, _ field: String
    ) -> APIError {
        Self.error(type, "\(path).\(field)", message, input)
    }

    private static func error(
        _ type: String, _ place: String, _ message: String, _ input: JSONValue
    ) -> APIError {
        validationError(
            place: place,
            "{'type': '\(type)', 'loc': '\(place)', 'msg': '\(message)', "
                + "'input': \(input.pythonDescription)}")
    }

    /// The error for a body that is not JSON.
    static func invalidJSON(_ error: ScanError) -> APIError {
        let problem =
            switch error.reason {
            case .truncated, .expectedValue: "Expecting value"
            case .expectedKey: "Expecting property name enclosed in double quotes"
            case .expectedColon: "Expecting \\':\\' delimiter"
            case .expectedComma: "Expecting \\',\\' delimiter"
            case .trailingText: "Extra data"
            default: error.reason.message
            }
        let place = "body.\(error.offset)"
        return validationError(
            place: place,
            "{'type': 'json_invalid', 'loc': '\(place)', 'msg': 'JSON decode error', "
                + "'input': '<dict of 0 items>', 'ctx': {'error': '\(problem)'}}")
    }

    private static func validationError(place: String, _ detail: String) -> APIError {
        APIError(
            status: 400, type: "Bad Request", message: "1 validation error:\n  \(detail)",
            param: place)
    }
}

extension JSONValue {
    /// The value as vLLM prints it in an error: short ones as Python does, others by their size.
    fileprivate var pythonDescription: String {
        switch kind {
        case .null: "None"
        case .bool: bool == true ? "True" : "False"
        case .number: String(decoding: rawBytes, as: UTF8.self)
        case .string: "'\((string ?? "").prefix(100))'"
        case .array: "'<list of \(elements.reduce(0) { count, _ in count + 1 }) items>'"
        case .object: "'<dict of \(members.reduce(0) { count, _ in count + 1 }) items>'"
        }
    }
}
