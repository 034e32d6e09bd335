import Configuration
import Scheduling
import SchedulingPlugins
import Testing

private typealias Usage = [String: Double]

private let paths = [
    "usage.prompt_tokens", "usage.completion_tokens", "usage.prompt_token_details.cached_tokens",
]

@Suite struct AttributeExpressionTests {
    private func reporter(
        _ expression: String, condition: String? = nil
    ) throws -> RequestAttributeReporter {
        let condition = condition.map { ", condition: \(quoted($0))" } ?? ""
        return try plugin(
            "request-attribute-reporter",
            "{attributes: [{key: {name: n}, expression: \(quoted(expression))\(condition)}]}",
            as: RequestAttributeReporter.self)
    }

    private func quoted(_ text: String) -> String {
        var quoted = "\""
        for character in text {
            if character == "\"" || character == "\\" { quoted += "\\" }
            quoted += character == "\n" ? "\\n" : String(character)
        }
        return quoted + "\""
    }

    private func value(_ expression: String, condition: String? = nil) throws -> Double? {
        try reporter(expression, condition: condition).attribute(
            of: TokenUsage(promptTokens: 10, completionTokens: 4, cachedTokens: nil))?.value
    }

    private func problem(_ expression: String, condition: String? = nil) -> String {
        do {
            _ = try reporter(expression, condition: condition)
            return "loaded"
        } catch {
            return "\(error)"
        }
    }

    @Test func whatUpstreamsDocumentationShows() throws {
        #expect(try value("usage.prompt_tokens + usage.completion_tokens\n") == 14)
        #expect(try value("usage.prompt_tokens") == 10)
        #expect(
            try value(
                "(has(usage.prompt_tokens) ? usage.prompt_tokens : 0) + "
                    + "(has(usage.prompt_token_details.cached_tokens) ? 5 : 1)") == 11)
        let both = "has(usage.prompt_tokens) && has(usage.completion_tokens)"
        #expect(try value("usage.total_tokens", condition: both) == 14)
        #expect(try value("1", condition: "!(\(both))") == nil)
    }

    @Test func theKeyIsWhatTheConfigurationSays() throws {
        let usage = TokenUsage(promptTokens: 3, completionTokens: nil, cachedTokens: nil)
        #expect(
            try reporter("usage.prompt_tokens").attribute(of: usage)
                == ReportedAttribute(namespace: "envoy.lb", name: "n", value: 3))
        let other = try plugin(
            "request-attribute-reporter",
            "{attributes: [{key: {namespace: x, name: y}, expression: \"7\"}]}",
            as: RequestAttributeReporter.self)
        #expect(
            other.attribute(of: nil) == ReportedAttribute(namespace: "x", name: "y", value: 7))
    }

    @Test func precedenceIsCELs() throws {
        #expect(try value("2 + 3 * 4 - 6 / 2 - 1") == 10)
        #expect(try value("-2 * -(3 - 5)") == -4)
        #expect(try value("true || false && false ? 1 : 2") == 1)
        #expect(try value("false ? 1 : true ? 2 : 3") == 2)
        #expect(try value("1.5e1 / 2") == 7, "truncated")
        #expect(try value("-1.5") == -1, "truncated towards 0")
    }

    @Test func whatTheResponseDoesNotSayIsNotReported() throws {
        let cached = "usage.prompt_token_details.cached_tokens"
        #expect(try value(cached) == nil)
        #expect(try value("1", condition: "\(cached) > 0") == nil)
        // One side decides although the other is an error.
        #expect(try value("1", condition: "\(cached) > 0 || true") == 1)
        #expect(try value("2", condition: "!(\(cached) > 0 && false)") == 2)
        #expect(try value("usage.prompt_tokens / 0") == nil)
    }

    @Test(arguments: [
        ("usage.prompt_tokens % 2", "uses %", "                    ^"),
        ("size(usage) + 1", "uses 'size'", "^"),
        ("usage.complete_tokens + 1", "completion_tokens", "^"),
        ("1 + usage.complete_tokens", "completion_tokens", "    ^"),
        ("usage['a']", "calls or indexes 'usage'", "     ^"),
        ("usage", "reads 'usage'", "^"),
        ("1 + true", "has true or false where a number is wanted", "    ^"),
        ("1 ? 2 : 3", "has a number where true or false is wanted", "^"),
        ("has(usage.prompt_tokens)", "has true or false where a number is wanted", "^"),
        ("(1 + 2", "lacks a ')'", "      ^"),
        ("1 +", "ends where a value is wanted", "   ^"),
        ("", "ends where a value is wanted", "^"),
        ("'a'", "has a string", "^"),
        ("1 2", "goes on", "  ^"),
        ("12u", "has a number that cannot be read", "^"),
        ("1e999", "has a number that cannot be read", "^"),
    ])
    func whatIsBeyondItIsRefusedWithAPointer(text: String, problem: String, pointer: String) {
        let told = self.problem(text)
        #expect(told.contains(problem), "\(told)")
        #expect(told.contains("attributes[0].expression"), "\(told)")
        #expect(told.hasSuffix("\n  \(text)\n  \(pointer)") || text.isEmpty, "\(told)")
    }

    @Test func thePointerIsInItsLine() {
        #expect(problem("1 +\n 2 + x").hasSuffix("at character 10:\n   2 + x\n       ^"))
    }

    @Test func nestingIsBounded() {
        for text in [
            String(repeating: "(", count: 4000), String(repeating: "-", count: 4000) + "1",
            String(repeating: "1 == 1 ? 1 : ", count: 300) + "1",
        ] {
            #expect(problem(text).contains("nested deeper"))
        }
        #expect(problem(String(repeating: "1+", count: 2100) + "1").contains("longer than"))
        #expect(problem(String(repeating: "1+", count: 2000) + "1") == "loaded")
    }

    /// Random expressions mean what a tree says that is written down with random parentheses.
    @Test func expressionsMeanWhatTheirTreesDo() throws {
        let seed = UInt64.random(in: 0 ... .max)
        var random = RandomSource(seed: seed)
        for _ in 0..<400 {
            let tree = Tree.number(depth: 4, &random)
            let condition = Tree.truth(depth: 3, &random)
            var usage: Usage = [:]
            for path in paths where Bool.random(using: &random) {
                usage[path] = Double(Int.random(in: 0...3, using: &random))
            }
            let (text, holds) = (tree.text(&random), condition.text(&random))
            let reported = try reporter(text, condition: holds).attribute(
                of: TokenUsage(
                    promptTokens: usage[paths[0]].map { Int($0) },
                    completionTokens: usage[paths[1]].map { Int($0) },
                    cachedTokens: usage[paths[2]].map { Int($0) }))?.value
            let value = condition.value(usage) == 1 ? tree.value(usage) : nil
            let expected = value.flatMap { $0.isFinite ? $0.rounded(.towardZero) : nil }
            #expect(reported == expected, "seed \(seed): \(text) if \(holds) of \(usage)")
        }
    }

    @Test func anyTextLoadsOrIsRefused() {
        let seed = UInt64.random(in: 0 ... .max)
        var random = RandomSource(seed: seed)
        let words = [
            "usage", ".", "prompt_tokens", "has", "(", ")", "+", "-", "*", "/", "%", "<", "<=",
            "==", "!=", "!", "&&", "||", "&", "?", ":", "1", "0.5", "1e", "true", "x", " ", "[",
            "\"", "'", "é", "\n", "\\", ",",
        ]
        for _ in 0..<1500 {
            let text = (0..<Int.random(in: 0...12, using: &random)).map { _ in
                words[Int.random(in: words.indices, using: &random)]
            }.joined()
            let told = problem(text)
            #expect(
                told == "loaded" || told.contains("attributes[0].expression"),
                "seed \(seed): \(text): \(told)")
        }
    }
}

/// An expression with a meaning of its own: nil is CEL's error, truth is 0 or 1.
private indirect enum Tree {
    case leaf(String, (Usage) -> Double?)
    case unary(String, Tree, (Double) -> Double)
    case binary(String, Tree, Tree, (Double?, Double?) -> Double?)
    case conditional(Tree, Tree, Tree)

    static func number(depth: Int, _ random: inout RandomSource) -> Tree {
        switch Int.random(in: 0..<(depth == 0 ? 2 : 6), using: &random) {
        case 0:
            let path = paths[Int.random(in: 0..<3, using: &random)]
            return .leaf(path) { $0[path] }
        case 1:
            let value = Double(Int.random(in: 0...9, using: &random)) / 2
            return .leaf("\(value)") { _ in value }
        case 2: return .unary("-", number(depth: depth - 1, &random)) { -$0 }
        case 3:
            return .conditional(
                truth(depth: depth - 1, &random), number(depth: depth - 1, &random),
                number(depth: depth - 1, &random))
        default:
            let symbol = ["+", "-", "*", "/"][Int.random(in: 0..<4, using: &random)]
            return .binary(
                symbol, number(depth: depth - 1, &random), number(depth: depth - 1, &random)
            ) { left, right in left.flatMap { left in right.map { Tree.apply(symbol, left, $0) } } }
        }
    }

    static func truth(depth: Int, _ random: inout RandomSource) -> Tree {
        switch Int.random(in: 0..<(depth == 0 ? 2 : 6), using: &random) {
        case 0:
            let path = paths[Int.random(in: 0..<3, using: &random)]
            return .leaf("has(\(path))") { $0[path] == nil ? 0 : 1 }
        case 1:
            let value = Bool.random(using: &random)
            return .leaf("\(value)") { _ in value ? 1 : 0 }
        case 2: return .unary("!", truth(depth: depth - 1, &random)) { 1 - $0 }
        case 3:
            let isAnd = Bool.random(using: &random)
            let decisive = isAnd ? 0.0 : 1.0
            return .binary(
                isAnd ? "&&" : "||", truth(depth: depth - 1, &random),
                truth(depth: depth - 1, &random)
            ) { left, right in
                if left == decisive || right == decisive { return decisive }
                return left == nil || right == nil ? nil : 1 - decisive
            }
        default:
            let symbols = ["<", "<=", ">", ">=", "==", "!="]
            let symbol = symbols[Int.random(in: 0..<6, using: &random)]
            return .binary(
                symbol, number(depth: depth - 1, &random), number(depth: depth - 1, &random)
            ) { left, right in
                left.flatMap { left in right.map { Tree.holds(symbol, left, $0) ? 1 : 0 } }
            }
        }
    }

    static func apply(_ symbol: String, _ left: Double, _ right: Double) -> Double {
        switch symbol {
        case "+": left + right
        case "-": left - right
        case "*": left * right
        default: left / right
        }
    }

    static func holds(_ symbol: String, _ left: Double, _ right: Double) -> Bool {
        switch symbol {
        case "<": left < right
        case "<=": left <= right
        case ">": left > right
        case ">=": left >= right
        case "==": left == right
        default: left != right
        }
    }

    func value(_ usage: Usage) -> Double? {
        switch self {
        case .leaf(_, let value): return value(usage)
        case .unary(_, let operand, let apply): return operand.value(usage).map(apply)
        case .binary(_, let left, let right, let apply):
            return apply(left.value(usage), right.value(usage))
        case .conditional(let condition, let first, let second):
            return condition.value(usage).flatMap { ($0 == 1 ? first : second).value(usage) }
        }
    }

    /// How tightly the outermost operator binds.
    private var strength: Int {
        switch self {
        case .leaf: 7
        case .unary: 6
        case .binary("*", _, _, _), .binary("/", _, _, _): 5
        case .binary("+", _, _, _), .binary("-", _, _, _): 4
        case .binary("&&", _, _, _): 2
        case .binary("||", _, _, _): 1
        case .binary: 3
        case .conditional: 0
        }
    }

    func text(_ random: inout RandomSource) -> String {
        func inner(_ tree: Tree, atLeast strength: Int) -> String {
            let text = tree.text(&random)
            let isNeeded = tree.strength < strength
            return isNeeded || Int.random(in: 0..<4, using: &random) == 0 ? "(\(text))" : text
        }
        let space = Bool.random(using: &random) ? " " : ""
        switch self {
        case .leaf(let text, _): return text
        case .unary(let symbol, let operand, _):
            return symbol + space + inner(operand, atLeast: 6)
        case .binary(let symbol, let left, let right, _):
            // Comparisons do not follow each other; the others group from the left.
            let isComparison = strength == 3
            return inner(left, atLeast: isComparison ? 4 : strength) + space + symbol + space
                + inner(right, atLeast: strength + 1)
        case .conditional(let condition, let first, let second):
            return inner(condition, atLeast: 1) + " ? " + inner(first, atLeast: 1) + " : "
                + inner(second, atLeast: 0)
        }
    }
}
