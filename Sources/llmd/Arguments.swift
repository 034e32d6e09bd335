public import ArgumentParser
public import Bench
public import Core
public import Logging
public import RequestPipeline
public import Telemetry
public import Transfer

// Types of other rooms as values of options.

extension LineLogHandler.Format: ExpressibleByArgument {}
extension Logger.Level: @retroactive ExpressibleByArgument {}
extension RoutingPolicy: ExpressibleByArgument {}
extension ServerRole: ExpressibleByArgument {}
extension SyntheticTrace: ExpressibleByArgument {}

extension TransferPath: ExpressibleByArgument {
    /// The path with this name.
    public init?(argument: String) {
        guard let path = Self.allCases.first(where: { "\($0)" == argument }) else { return nil }
        self = path
    }
}

extension RoutingPolicy {
    /// All names, for help and errors.
    static var names: String { allCases.map(\.rawValue).joined(separator: ", ") }
}
