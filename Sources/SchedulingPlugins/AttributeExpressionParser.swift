import Configuration

/// What is wrong with an expression, and where.
struct AttributeExpressionError: Error, Equatable {
    /// A byte of the text, counted from 0.
    var position: Int
    /// The end of a sentence that starts with the expression.
    var problem: String

    /// The sentence's end with the text and a pointer to the place.
    func explained(in text: String) -> String {
        let start = String(decoding: text.utf8.prefix(position), as: UTF8.self)
        let line = start.split(separator: "\n", omittingEmptySubsequences: false).last ?? ""
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        let number = start.count { $0 == "\n" }
        let shown = number < lines.count ? lines[number] : ""
        let pointer = String(repeating: " ", count: line.count) + "^"
        return "\(problem), at character \(start.count + 1):\n  \(shown)\n  \(pointer)"
    }
}

/// Parses what `request-attribute-reporter` knows of CEL: numbers, `true`, `false`, fields of
/// `usage`, `has()`, arithmetic, comparisons, `&&`, `||`, `!`, `? :` and parentheses, with CEL's
/// precedence. By recursive descent, no deeper than ``maximumDepth``.
struct AttributeExpressionParser {
    /// How deep parentheses, signs and conditionals may be nested.
    static let maximumDepth = 64
    /// The longest text.
    static let maximumBytes = 4096

    private enum Expression {
        case number(NumberExpression)
        case truth(TruthExpression)
    }

    private let text: [UInt8]
    private var position = 0
    private var depth = 0

    private init(_ text: String) throws(AttributeExpressionError) {
        self.text = Array(text.utf8)
        guard self.text.count <= Self.maximumBytes else {
            throw AttributeExpressionError(
                position: 0, problem: "is longer than \(Self.maximumBytes) bytes")
        }
    }

    /// An expression that is a number.
    static func number(_ text: String) throws(AttributeExpressionError) -> NumberExpression {
        var parser = try AttributeExpressionParser(text)
        let start = parser.skipSpace()
        return try parser.number(try parser.whole(), at: start)
    }

    /// An expression that is true or false.
    static func truth(_ text: String) throws(AttributeExpressionError) -> TruthExpression {
        var parser = try AttributeExpressionParser(text)
        let start = parser.skipSpace()
        return try parser.truth(try parser.whole(), at: start)
    }

    // MARK: - Grammar

    private mutating func whole() throws(AttributeExpressionError) -> Expression {
        let expression = try conditional()
        skipSpace()
        guard position == text.count else {
            if text[position] == UInt8(ascii: "%") {
                throw error("uses %, which integers have and these numbers are not")
            }
            throw error("goes on with what no expression goes on with here")
        }
        return expression
    }

    private mutating func conditional() throws(AttributeExpressionError) -> Expression {
        try enter()
        defer { depth -= 1 }
        let start = skipSpace()
        let condition = try or()
        guard take("?") else { return condition }
        let holds = try truth(condition, at: start)
        let first = try or()
        guard take(":") else { throw error("lacks the ':' of a conditional") }
        let secondStart = skipSpace()
        let second = try conditional()
        switch first {
        case .number(let first):
            return .number(.conditional(holds, first, try number(second, at: secondStart)))
        case .truth(let first):
            return .truth(.conditional(holds, first, try truth(second, at: secondStart)))
        }
    }

    private mutating func or() throws(AttributeExpressionError) -> Expression {
        var start = skipSpace()
        var left = try and()
        while take("||") {
            let holds = try truth(left, at: start)
            start = skipSpace()
            left = .truth(.or(holds, try truth(try and(), at: start)))
        }
        return left
    }

    private mutating func and() throws(AttributeExpressionError) -> Expression {
        var start = skipSpace()
        var left = try comparison()
        while take("&&") {
            let holds = try truth(left, at: start)
            start = skipSpace()
            left = .truth(.and(holds, try truth(try comparison(), at: start)))
        }
        return left
    }

    private mutating func comparison() throws(AttributeExpressionError) -> Expression {
        let start = skipSpace()
        let left = try sum()
        // The longer operators come first.
        guard
            let operation = TruthExpression.Comparison.allCases.first(where: { take($0.rawValue) })
        else { return left }
        let number = try self.number(left, at: start)
        let rightStart = skipSpace()
        let right = try self.number(try sum(), at: rightStart)
        return .truth(.comparison(operation, number, right))
    }

    private mutating func sum() throws(AttributeExpressionError) -> Expression {
        try chain([.add, .subtract]) { (parser) throws(AttributeExpressionError) in
            try parser.chain([.multiply, .divide]) { (parser) throws(AttributeExpressionError) in
                try parser.unary()
            }
        }
    }

    private mutating func chain(
        _ operators: [NumberExpression.Operator],
        of operand: (inout Self) throws(AttributeExpressionError) -> Expression
    ) throws(AttributeExpressionError) -> Expression {
        var start = skipSpace()
        var left = try operand(&self)
        while let operation = operators.first(where: { take($0.rawValue) }) {
            let number = try self.number(left, at: start)
            start = skipSpace()
            left = .number(
                .binary(operation, number, try self.number(try operand(&self), at: start)))
        }
        return left
    }

    private mutating func unary() throws(AttributeExpressionError) -> Expression {
        if take("-") {
            try enter()
            defer { depth -= 1 }
            let start = skipSpace()
            return .number(.negated(try number(try unary(), at: start)))
        }
        if take("!") {
            try enter()
            defer { depth -= 1 }
            let start = skipSpace()
            return .truth(.not(try truth(try unary(), at: start)))
        }
        return try primary()
    }

    private mutating func primary() throws(AttributeExpressionError) -> Expression {
        skipSpace()
        guard position < text.count else { throw error("ends where a value is wanted") }
        if take("(") {
            let inner = try conditional()
            guard take(")") else { throw error("lacks a ')'") }
            return inner
        }
        let byte = text[position]
        if Self.isDigit(byte) || byte == UInt8(ascii: ".") { return .number(try literal()) }
        if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'") {
            throw error("has a string: only numbers, fields of usage and has() can be used")
        }
        guard Self.isLetter(byte) else { throw error("has no value where one is wanted") }
        return try named()
    }

    private mutating func named() throws(AttributeExpressionError) -> Expression {
        let start = position
        switch word() {
        case "true": return .truth(.literal(true))
        case "false": return .truth(.literal(false))
        case "usage": return .number(.field(try field(from: start)))
        case "has":
            guard take("(") else { throw error("lacks the '(' of has()") }
            let start = skipSpace()
            guard word() == "usage" else {
                throw error("must have a field of usage in has()", at: start)
            }
            let field = try field(from: start)
            guard take(")") else { throw error("lacks the ')' of has()") }
            return .truth(.has(field))
        case let name:
            throw error(
                "uses '\(name)': only numbers, fields of usage and has() can be used", at: start)
        }
    }

    private mutating func field(
        from start: Int
    ) throws(AttributeExpressionError) -> UsageField {
        var path = "usage"
        while take(".") {
            skipSpace()
            let part = word()
            guard !part.isEmpty else { throw error("lacks the name of a field") }
            path += ".\(part)"
        }
        skipSpace()
        if position < text.count, [UInt8(ascii: "("), UInt8(ascii: "[")].contains(text[position]) {
            throw error("calls or indexes '\(path)': only its fields can be used")
        }
        guard let field = UsageField(rawValue: path) else {
            let names = UsageField.allCases.map(\.rawValue)
            throw error("reads '\(path)'; \(suggestion(for: path, among: names))", at: start)
        }
        return field
    }

    // MARK: - Words

    private mutating func literal() throws(AttributeExpressionError) -> NumberExpression {
        let start = position
        func digits(_ parser: inout Self) {
            while parser.position < parser.text.count, Self.isDigit(parser.text[parser.position]) {
                parser.position += 1
            }
        }
        digits(&self)
        if position < text.count, text[position] == UInt8(ascii: ".") {
            position += 1
            digits(&self)
        }
        if position < text.count, text[position] | 0x20 == UInt8(ascii: "e") {
            position += 1
            if position < text.count, text[position] == UInt8(ascii: "-") || text[position] == 0x2B
            {
                position += 1
            }
            digits(&self)
        }
        let literal = String(decoding: text[start..<position], as: UTF8.self)
        let isWhole = position == text.count || !Self.isLetter(text[position])
        guard isWhole, literal.last != ".", let value = Double(literal), value.isFinite else {
            throw error("has a number that cannot be read", at: start)
        }
        return .literal(value)
    }

    /// A name, perhaps an empty one.
    private mutating func word() -> String {
        let start = position
        while position < text.count, Self.isLetter(text[position]) || Self.isDigit(text[position]) {
            position += 1
        }
        return String(decoding: text[start..<position], as: UTF8.self)
    }

    /// Whether `symbol` comes next; if so it is passed.
    private mutating func take(_ symbol: String) -> Bool {
        skipSpace()
        guard text[position...].starts(with: symbol.utf8) else { return false }
        position += symbol.utf8.count
        return true
    }

    /// Returns where the next word begins.
    @discardableResult
    private mutating func skipSpace() -> Int {
        while position < text.count, [0x20, 0x09, 0x0A, 0x0D].contains(text[position]) {
            position += 1
        }
        return position
    }

    private static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }
    private static func isLetter(_ byte: UInt8) -> Bool {
        (0x61...0x7A).contains(byte | 0x20) || byte == UInt8(ascii: "_")
    }

    // MARK: - Types and errors

    private func number(
        _ expression: Expression, at start: Int
    ) throws(AttributeExpressionError) -> NumberExpression {
        guard case .number(let number) = expression else {
            throw error("has true or false where a number is wanted", at: start)
        }
        return number
    }

    private func truth(
        _ expression: Expression, at start: Int
    ) throws(AttributeExpressionError) -> TruthExpression {
        guard case .truth(let truth) = expression else {
            throw error("has a number where true or false is wanted", at: start)
        }
        return truth
    }

    private mutating func enter() throws(AttributeExpressionError) {
        guard depth < Self.maximumDepth else {
            throw error("is nested deeper than \(Self.maximumDepth)")
        }
        depth += 1
    }

    private func error(_ problem: String, at place: Int? = nil) -> AttributeExpressionError {
        AttributeExpressionError(position: place ?? position, problem: problem)
    }
}
