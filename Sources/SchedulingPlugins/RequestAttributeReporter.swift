public import Configuration
public import Scheduling

/// `request-attribute-reporter`: tells the data plane a figure that is worked out from the usage
/// of a response, as dynamic metadata of Envoy's, at the response's end.
public final class RequestAttributeReporter: ResponseReporter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "request-attribute-reporter"
    /// Its type and name.
    public let name: PluginName

    private let key: (namespace: String, name: String)
    private let expression: NumberExpression
    private let condition: TruthExpression

    /// Parameters: `attributes`, a list of one {`key` {`namespace` envoy.lb, `name`},
    /// `expression`, `condition`}. The expressions are of CEL what ``AttributeExpressionParser``
    /// says.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        let list = try source.parameters.required("attributes")
        let attributes = try list.list()
        guard attributes.count == 1 else {
            throw list.error("must have one entry, not \(attributes.count)")
        }
        (key, expression, condition) = try attributes[0].section {
            (section) throws(ConfigError) in
            let key = try section.required("key").section { (section) throws(ConfigError) in
                let namespace = try section.optional("namespace")?.string() ?? ""
                let name = try section.required("name")
                let text = try name.string()
                guard !text.isEmpty else { throw name.error("must not be empty") }
                return (namespace.isEmpty ? "envoy.lb" : namespace, text)
            }
            let expression = try Self.parsed(
                try section.required("expression"), AttributeExpressionParser.number)
            let condition = try section.optional("condition").map { (value) throws(ConfigError) in
                try value.string().isEmpty
                    ? .literal(true) : Self.parsed(value, AttributeExpressionParser.truth)
            }
            return (key, expression, condition ?? .literal(true))
        }
    }

    /// The attribute; nil if the condition does not hold, or reads what the response does not say.
    public func attribute(of usage: TokenUsage?) -> ReportedAttribute? {
        let usage = usage ?? TokenUsage(promptTokens: nil, completionTokens: nil, cachedTokens: nil)
        guard condition.value(in: usage) == true, let value = expression.value(in: usage),
            value.isFinite
        else { return nil }
        return ReportedAttribute(
            namespace: key.namespace, name: key.name, value: value.rounded(.towardZero))
    }

    private static func parsed<Expression>(
        _ value: ConfigValue, _ parse: (String) throws(AttributeExpressionError) -> Expression
    ) throws(ConfigError) -> Expression {
        let text = try value.string()
        do {
            return try parse(text)
        } catch {
            throw value.error(error.explained(in: text))
        }
    }
}
