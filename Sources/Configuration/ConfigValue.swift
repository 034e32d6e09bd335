import Yams

/// A value in a YAML or JSON document, with the place where it stands.
///
/// The readers check types and ranges and throw ``ConfigError`` with file, line and path.
public struct ConfigValue {
    private let node: Node
    private let file: String
    private let parent: Int?

    /// Where it stands in the document, such as `plugins[2].parameters`.
    public let path: String

    init(node: Node, file: String, path: String, parent: Int? = nil) {
        self.node = node
        self.file = file
        self.path = path
        self.parent = parent
    }

    /// Parses a document of one root.
    public init(parsing text: String, file: String) throws(ConfigError) {
        do {
            guard let root = try Yams.compose(yaml: text) else {
                throw ConfigError(file: file, line: nil, problem: "is empty")
            }
            self.init(node: root, file: file, path: "")
        } catch let error as ConfigError {
            throw error
        } catch let error as YamlError {
            throw ConfigError(file: file, line: error.line, problem: error.problem)
        } catch {
            throw ConfigError(file: file, line: nil, problem: "\(error)")
        }
    }

    /// A value without content, which reads as a section without keys. It stands where this does.
    public func empty(path: String) -> ConfigValue {
        ConfigValue(node: Node("", Tag(.null), .plain), file: file, path: path, parent: line)
    }

    /// Counted from 1. An empty value stands where its parent does.
    public var line: Int? { node.mark?.line ?? parent }

    /// An error about this value; `problem` is the end of a sentence that starts with the path.
    public func error(_ problem: String) -> ConfigError {
        ConfigError(
            file: file, line: line,
            problem: path.isEmpty ? "the document \(problem)" : "\(path) \(problem)")
    }

    /// Whether the value is absent or `null`.
    public var isNull: Bool { node.null != nil }

    /// A scalar as text, whatever its style.
    public func string() throws(ConfigError) -> String {
        guard case .scalar(let scalar) = node else { throw error("must be a string") }
        return scalar.string
    }

    /// A whole number.
    public func integer(in range: ClosedRange<Int> = Int.min...Int.max) throws(ConfigError) -> Int {
        guard case .scalar(let scalar) = node, let value = Int(scalar.string) else {
            throw error("must be a whole number")
        }
        guard range.contains(value) else {
            throw error("must be \(Self.text(range)), not \(value)")
        }
        return value
    }

    /// A finite number.
    public func number(
        in range: ClosedRange<Double> = -Double
            .greatestFiniteMagnitude...Double
            .greatestFiniteMagnitude
    ) throws(ConfigError) -> Double {
        guard case .scalar(let scalar) = node, let value = Double(scalar.string), value.isFinite
        else { throw error("must be a number") }
        guard range.contains(value) else {
            throw error("must be from \(range.lowerBound) to \(range.upperBound), not \(value)")
        }
        return value
    }

    /// `true` or `false`.
    public func boolean() throws(ConfigError) -> Bool {
        guard case .scalar(let scalar) = node, let value = Bool(scalar.string) else {
            throw error("must be true or false")
        }
        return value
    }

    /// A duration in Go's form: `200ms`, `1.5s`, `5m`, `1h30m`.
    public func duration() throws(ConfigError) -> Duration {
        guard let value = Duration(goText: try string()) else {
            throw error("must be a duration such as 200ms, 2s or 5m")
        }
        return value
    }

    /// One of the raw values of `Choice`.
    public func choice<Choice: RawRepresentable<String> & CaseIterable>(
        of type: Choice.Type
    ) throws(ConfigError) -> Choice {
        let text = try string()
        guard let value = Choice(rawValue: text) else {
            let valid = Choice.allCases.map(\.rawValue)
            throw error("cannot be '\(text)'; \(suggestion(for: text, among: valid))")
        }
        return value
    }

    /// The elements of a sequence.
    public func list() throws(ConfigError) -> [ConfigValue] {
        guard case .sequence(let sequence) = node else { throw error("must be a list") }
        return sequence.enumerated().map {
            ConfigValue(node: $0.element, file: file, path: "\(path)[\($0.offset)]", parent: line)
        }
    }

    /// A mapping of free names to texts, such as labels.
    public func strings() throws(ConfigError) -> [String: String] {
        var result: [String: String] = [:]
        for (key, value) in try entries() {
            result[key] = try value.string()
        }
        return result
    }

    /// Reads a mapping of known keys; a key that `body` did not ask for is an error.
    public func section<Result>(
        _ body: (inout ConfigSection) throws(ConfigError) -> Result
    ) throws(ConfigError) -> Result {
        var section = ConfigSection(of: self, entries: isNull ? [] : try entries())
        let result = try body(&section)
        try section.refuseUnknownKeys()
        return result
    }

    /// The value of a key, for a look ahead into a mapping that someone else reads; nil if it is
    /// missing or null, or this is no mapping.
    public func member(_ key: String) -> ConfigValue? {
        guard let entries = try? entries(),
            let found = entries.first(where: { $0.0 == key })?.1, !found.isNull
        else { return nil }
        return found
    }

    /// The same text for equal values, whatever the order of their keys and the style of their
    /// scalars; members called `omitted` are left out. Empty for null and for an empty mapping.
    public func canonicalText(omitting omitted: String) -> String {
        switch node {
        case .scalar(let scalar): return isNull ? "" : "\(scalar.string.debugDescription)"
        case .sequence:
            let elements = (try? list()) ?? []
            return "["
                + elements.map { $0.canonicalText(omitting: omitted) }.joined(separator: ",") + "]"
        case .mapping:
            return Self.canonicalText(of: (try? entries()) ?? [], omitting: omitted)
        case .alias: return ""
        }
    }

    fileprivate static func canonicalText(
        of entries: [(String, ConfigValue)], omitting omitted: String
    ) -> String {
        let members = entries.filter { $0.0 != omitted && !$0.1.isNull }
            .map { "\($0.0.debugDescription):\($0.1.canonicalText(omitting: omitted))" }
        return members.isEmpty ? "" : "{" + members.sorted().joined(separator: ",") + "}"
    }

    private func entries() throws(ConfigError) -> [(String, ConfigValue)] {
        guard case .mapping(let mapping) = node else { throw error("must be a mapping") }
        var entries: [(String, ConfigValue)] = []
        for (key, value) in mapping {
            guard case .scalar(let name) = key else { throw error("must have plain keys") }
            let path = path.isEmpty ? name.string : "\(path).\(name.string)"
            entries.append(
                (
                    name.string,
                    ConfigValue(node: value, file: file, path: path, parent: key.mark?.line)
                ))
        }
        return entries
    }

    private static func text(_ range: ClosedRange<Int>) -> String {
        range.upperBound == .max
            ? "at least \(range.lowerBound)" : "from \(range.lowerBound) to \(range.upperBound)"
    }
}

/// A mapping of known keys while it is read. Asking for a key makes it known.
public struct ConfigSection {
    private let value: ConfigValue
    private var entries: [(key: String, value: ConfigValue)]
    private var known: Set<String> = []

    init(of value: ConfigValue, entries: [(String, ConfigValue)]) {
        self.value = value
        self.entries = entries.map { (key: $0.0, value: $0.1) }
    }

    /// An error about the whole mapping.
    public func error(_ problem: String) -> ConfigError { value.error(problem) }

    /// The value of a key; nil if it is missing or null.
    public mutating func optional(_ key: String) -> ConfigValue? {
        known.insert(key)
        guard let found = entries.first(where: { $0.key == key })?.value, !found.isNull else {
            return nil
        }
        return found
    }

    /// The value of a key; an empty one if it is missing or null.
    public mutating func orEmpty(_ key: String) -> ConfigValue {
        optional(key) ?? value.empty(path: value.path.isEmpty ? key : "\(value.path).\(key)")
    }

    /// The value of a key that must be there.
    public mutating func required(_ key: String) throws(ConfigError) -> ConfigValue {
        guard let found = optional(key) else { throw error("needs a '\(key)'") }
        return found
    }

    /// The whole mapping as ``ConfigValue/canonicalText(omitting:)`` has it.
    public func canonicalText(omitting omitted: String) -> String {
        ConfigValue.canonicalText(
            of: entries.map { ($0.key, $0.value) }, omitting: omitted)
    }

    func refuseUnknownKeys() throws(ConfigError) {
        for entry in entries where !known.contains(entry.key) {
            throw entry.value.error(
                "is not known; \(suggestion(for: entry.key, among: known))")
        }
    }
}

extension Duration {
    /// Parses Go's duration syntax: one or more `<decimal><unit>`, units ns, us, ms, s, m, h.
    public init?(goText text: String) {
        let units: [(String, Double)] = [
            ("ns", 1), ("us", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9),
        ]
        var rest = text[...]
        var nanoseconds = 0.0
        while !rest.isEmpty {
            let digits = rest.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
            guard let number = Double(digits) else { return nil }
            rest = rest.dropFirst(digits.count)
            let name = rest.prefix { $0.isLetter }
            guard let unit = units.first(where: { $0.0 == name }) else { return nil }
            rest = rest.dropFirst(name.count)
            nanoseconds += number * unit.1
        }
        guard !text.isEmpty, nanoseconds < 9.2e18 else { return nil }
        self = .nanoseconds(Int64(nanoseconds))
    }
}

extension YamlError {
    fileprivate var line: Int? {
        switch self {
        case .scanner(_, _, let mark, _), .parser(_, _, let mark, _),
            .composer(_, _, let mark, _):
            mark.line
        case .duplicatedKeysInMapping(_, let context): context.mark.line
        default: nil
        }
    }

    fileprivate var problem: String {
        switch self {
        case .scanner(_, let problem, _, _), .parser(_, let problem, _, _),
            .composer(_, let problem, _, _):
            "is not YAML: \(problem)"
        case .duplicatedKeysInMapping(let keys, _):
            "has a key twice: \(keys.joined(separator: ", "))"
        default: "is not YAML: \(self)"
        }
    }
}
