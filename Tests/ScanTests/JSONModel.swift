import Foundation
import Scan

/// A JSON value in its plainest form: what scanned documents are compared with.
enum JSONModel: Equatable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSONModel])
    case object([String: JSONModel])

    init(_ value: JSONValue) {
        switch value.kind {
        case .null: self = .null
        case .bool: self = .bool(value.bool ?? false)
        case .number: self = .number(value.double ?? .nan)
        case .string: self = .string(value.string ?? "?")
        case .array: self = .array(value.elements.map(JSONModel.init))
        case .object:
            let members = value.members.map { ($0.key, JSONModel($0.value)) }
            // As Foundation has it: of members with one key the first counts.
            self = .object(Dictionary(members, uniquingKeysWith: { first, _ in first }))
        }
    }
}

/// Foundation's reading of a text: the slow model.
extension JSONModel: Decodable {
    private struct Key: CodingKey {
        var stringValue: String
        var intValue: Int? { nil }
        init(stringValue: String) { self.stringValue = stringValue }
        init?(intValue: Int) { return nil }
    }

    init(from decoder: any Decoder) throws {
        if let container = try? decoder.singleValueContainer() {
            if container.decodeNil() {
                self = .null
                return
            }
            if let value = try? container.decode(Bool.self) {
                self = .bool(value)
                return
            }
            if let value = try? container.decode(Double.self) {
                self = .number(value)
                return
            }
            if let value = try? container.decode(String.self) {
                self = .string(value)
                return
            }
            if let value = try? container.decode([JSONModel].self) {
                self = .array(value)
                return
            }
        }
        let container = try decoder.container(keyedBy: Key.self)
        var members: [String: JSONModel] = [:]
        for key in container.allKeys {
            members[key.stringValue] = try container.decode(JSONModel.self, forKey: key)
        }
        self = .object(members)
    }

    static func foundation(_ text: [UInt8]) throws -> JSONModel {
        try JSONDecoder().decode(JSONModel.self, from: Data(text))
    }
}

/// Makes documents together with what they mean.
struct JSONGenerator {
    var random: SeededRandom

    mutating func document() -> (text: String, model: JSONModel) {
        let (text, model) = value(depth: 4)
        return (space() + text + space(), model)
    }

    /// An object, for edits, with keys that stand only once.
    mutating func object() -> (text: String, model: [String: JSONModel]) {
        var members: [String: JSONModel] = [:]
        var parts: [String] = []
        for _ in 0..<random.below(6) {
            let (keyText, key) = string()
            guard members[key] == nil else { continue }
            let (text, model) = value(depth: 2)
            members[key] = model
            parts.append("\(space())\(keyText)\(space()):\(space())\(text)\(space())")
        }
        return ("{\(parts.joined(separator: ","))\(space())}", members)
    }

    private mutating func value(depth: Int) -> (text: String, model: JSONModel) {
        switch random.below(depth > 0 ? 8 : 5) {
        case 0: return ("null", .null)
        case 1:
            let value = random.once(in: 2)
            return ("\(value)", .bool(value))
        case 2: return number()
        case 3, 4:
            let (text, value) = string()
            return (text, .string(value))
        case 5, 6:
            var texts: [String] = []
            var models: [JSONModel] = []
            for _ in 0..<random.below(5) {
                let (text, model) = value(depth: depth - 1)
                texts.append(space() + text + space())
                models.append(model)
            }
            return ("[\(texts.joined(separator: ","))]", .array(models))
        default:
            let (text, members) = object()
            return (text, .object(members))
        }
    }

    private mutating func number() -> (text: String, model: JSONModel) {
        let text =
            switch random.below(4) {
            case 0: String(random.below(100_000))
            case 1: String(-random.below(1 << 53))
            case 2: "\(random.below(1000)).\(random.below(1000))"
            default: "\(random.below(10)).\(random.below(99))e-\(random.below(20))"
            }
        return (text, .number(Double(text) ?? .nan))
    }

    private mutating func string() -> (text: String, value: String) {
        var text = "\""
        var value = ""
        for _ in 0..<random.below(random.once(in: 8) ? 60 : 8) {
            let scalar = scalar()
            value.unicodeScalars.append(scalar)
            text += escaped(scalar)
        }
        return (text + "\"", value)
    }

    private mutating func scalar() -> Unicode.Scalar {
        let pool: [ClosedRange<UInt32>] = [
            0x20...0x7e, 0x61...0x7a, 0x00...0x1f, 0x80...0x7ff, 0x4e00...0x4fff, 0xe000...0xffff,
            0x1f300...0x1f6ff, 0x10fff0...0x10ffff,
        ]
        return Unicode.Scalar(UInt32.random(in: pool[random.below(pool.count)], using: &random))
            ?? "?"
    }

    private mutating func escaped(_ scalar: Unicode.Scalar) -> String {
        let short: [Unicode.Scalar: String] = [
            "\"": "\\\"", "\\": "\\\\", "/": "\\/", "\u{8}": "\\b", "\u{c}": "\\f", "\n": "\\n",
            "\r": "\\r", "\t": "\\t",
        ]
        if let escape = short[scalar], scalar != "/" || random.once(in: 2) { return escape }
        if scalar.value < 0x20 || random.once(in: 6) {
            return String(scalar).utf16.map { unit in
                let digits = String(unit, radix: 16, uppercase: random.once(in: 2))
                return "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            }.joined()
        }
        return String(scalar)
    }

    private mutating func space() -> String {
        random.once(in: 4) ? [" ", "\n", "\t", "\r\n", "   "][random.below(5)] : ""
    }
}
