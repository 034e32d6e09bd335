public import Configuration
import Core
public import Scheduling

/// `label-selector-filter`: keeps endpoints whose labels meet a Kubernetes label selector.
public final class LabelSelectorFilter: Filter, ConfigurablePlugin {
    /// The operators of `matchExpressions`.
    public enum Operator: String, CaseIterable, Sendable {
        case isIn = "In"
        case isNotIn = "NotIn"
        case exists = "Exists"
        case doesNotExist = "DoesNotExist"
    }

    /// One requirement; an endpoint must meet all of them.
    public struct Requirement: Equatable, Sendable {
        /// The label.
        public var key: String
        /// What is asked of its value.
        public var test: Operator
        /// For `In` and `NotIn`.
        public var values: [String]

        func isMet(by labels: [String: String]) -> Bool {
            switch (test, labels[key]) {
            case (.isIn, let value?): values.contains(value)
            case (.isIn, nil): false
            case (.isNotIn, let value?): !values.contains(value)
            case (.isNotIn, nil): true
            case (.exists, let value): value != nil
            case (.doesNotExist, let value): value == nil
            }
        }
    }

    /// The type's name.
    public static let type = "label-selector-filter"
    /// Its type and name.
    public let name: PluginName

    private let requirements: [Requirement]

    /// Parameters: `matchLabels`, `matchExpressions`.
    public init(_ source: inout PluginSource) throws(ConfigError) {
        name = source.name
        var requirements: [Requirement] = []
        for (key, value) in try source.parameters.optional("matchLabels")?.strings() ?? [:] {
            requirements.append(Requirement(key: key, test: .isIn, values: [value]))
        }
        for entry in try source.parameters.optional("matchExpressions")?.list() ?? [] {
            requirements.append(try Self.requirement(entry))
        }
        self.requirements = requirements
    }

    private static func requirement(_ entry: ConfigValue) throws(ConfigError) -> Requirement {
        try entry.section { (section) throws(ConfigError) in
            let test = try section.required("operator").choice(of: Operator.self)
            var values: [String] = []
            for value in try section.optional("values")?.list() ?? [] {
                values.append(try value.string())
            }
            let wantsValues = test == .isIn || test == .isNotIn
            guard wantsValues != values.isEmpty else {
                throw section.error(
                    wantsValues
                        ? "needs 'values' for \(test.rawValue)"
                        : "cannot have 'values' with \(test.rawValue)")
            }
            return Requirement(
                key: try section.required("key").string(), test: test, values: values)
        }
    }

    /// Keeps endpoints that meet every requirement.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        candidates.removeAll { candidate in
            let labels = context.endpoints[candidate].server.labels
            return !requirements.allSatisfy { $0.isMet(by: labels) }
        }
    }
}
