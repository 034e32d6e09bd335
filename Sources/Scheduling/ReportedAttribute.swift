/// A figure about a response that the data plane is told: dynamic metadata of Envoy's.
public struct ReportedAttribute: Equatable, Sendable {
    /// The metadata's namespace.
    public var namespace: String
    /// The key in it.
    public var name: String
    /// The figure.
    public var value: Double

    /// Makes an attribute.
    public init(namespace: String, name: String, value: Double) {
        self.namespace = namespace
        self.name = name
        self.value = value
    }
}

/// Tells the data plane something about a response at its end.
public protocol ResponseReporter: Plugin {
    /// The attribute of a response that used `usage`, which is nil if it did not say; nil: none.
    func attribute(of usage: TokenUsage?) -> ReportedAttribute?
}
