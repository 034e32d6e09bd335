import Scheduling

/// A figure of a response's usage that expressions may name, by the names of upstream's `usage`.
enum UsageField: String, CaseIterable, Sendable {
    case promptTokens = "usage.prompt_tokens"
    case completionTokens = "usage.completion_tokens"
    case totalTokens = "usage.total_tokens"
    case cachedTokens = "usage.prompt_token_details.cached_tokens"
    /// The same by OpenAI's name.
    case cachedTokensOfOpenAI = "usage.prompt_tokens_details.cached_tokens"

    /// Nil if the response does not say.
    func value(in usage: TokenUsage) -> Double? {
        switch self {
        case .promptTokens: usage.promptTokens.map(Double.init)
        case .completionTokens: usage.completionTokens.map(Double.init)
        case .totalTokens:
            if let prompt = usage.promptTokens, let completion = usage.completionTokens {
                Double(prompt) + Double(completion)
            } else {
                nil
            }
        case .cachedTokens, .cachedTokensOfOpenAI: usage.cachedTokens.map(Double.init)
        }
    }
}

/// An expression that is a number: what `request-attribute-reporter` knows of CEL. All numbers
/// are doubles, as those of a `google.protobuf.Struct` are.
indirect enum NumberExpression: Equatable, Sendable {
    enum Operator: String, CaseIterable, Sendable {
        case add = "+"
        case subtract = "-"
        case multiply = "*"
        case divide = "/"
    }

    case literal(Double)
    case field(UsageField)
    case negated(NumberExpression)
    case binary(Operator, NumberExpression, NumberExpression)
    case conditional(TruthExpression, NumberExpression, NumberExpression)

    /// Nil where a field is read that the response does not have: CEL's error.
    func value(in usage: TokenUsage) -> Double? {
        switch self {
        case .literal(let value): return value
        case .field(let field): return field.value(in: usage)
        case .negated(let operand): return operand.value(in: usage).map { -$0 }
        case .binary(let operation, let left, let right):
            guard let left = left.value(in: usage), let right = right.value(in: usage) else {
                return nil
            }
            switch operation {
            case .add: return left + right
            case .subtract: return left - right
            case .multiply: return left * right
            case .divide: return left / right
            }
        case .conditional(let condition, let first, let second):
            guard let holds = condition.value(in: usage) else { return nil }
            return (holds ? first : second).value(in: usage)
        }
    }
}

/// An expression that is true or false.
indirect enum TruthExpression: Equatable, Sendable {
    enum Comparison: String, CaseIterable, Sendable {
        case lessOrEqual = "<="
        case greaterOrEqual = ">="
        case equal = "=="
        case notEqual = "!="
        case less = "<"
        case greater = ">"
    }

    case literal(Bool)
    case has(UsageField)
    case not(TruthExpression)
    case and(TruthExpression, TruthExpression)
    case or(TruthExpression, TruthExpression)
    case comparison(Comparison, NumberExpression, NumberExpression)
    case conditional(TruthExpression, TruthExpression, TruthExpression)

    /// Nil where a field is read that the response does not have: CEL's error. As in CEL one side
    /// of `&&` or `||` may decide although the other is an error.
    func value(in usage: TokenUsage) -> Bool? {
        switch self {
        case .literal(let value): return value
        case .has(let field): return field.value(in: usage) != nil
        case .not(let operand): return operand.value(in: usage).map { !$0 }
        case .and(let left, let right):
            let (left, right) = (left.value(in: usage), right.value(in: usage))
            if left == false || right == false { return false }
            return left == nil || right == nil ? nil : true
        case .or(let left, let right):
            let (left, right) = (left.value(in: usage), right.value(in: usage))
            if left == true || right == true { return true }
            return left == nil || right == nil ? nil : false
        case .comparison(let comparison, let left, let right):
            guard let left = left.value(in: usage), let right = right.value(in: usage) else {
                return nil
            }
            switch comparison {
            case .less: return left < right
            case .lessOrEqual: return left <= right
            case .greater: return left > right
            case .greaterOrEqual: return left >= right
            case .equal: return left == right
            case .notEqual: return left != right
            }
        case .conditional(let condition, let first, let second):
            guard let holds = condition.value(in: usage) else { return nil }
            return (holds ? first : second).value(in: usage)
        }
    }
}
