import Core
public import Scheduling

/// `header-based-testing-filter`: the endpoints that the header `test-epp-endpoint-selection`
/// lists, by address or host, separated by commas. For conformance tests of gateways.
public final class HeaderBasedTestingFilter: Filter, ConfigurablePlugin {
    /// The type's name.
    public static let type = "header-based-testing-filter"
    /// The header.
    static let header = "test-epp-endpoint-selection"
    /// Its type and name.
    public let name: PluginName
    /// Is not in records.
    public var unrecordedInput: String? { "a header of the request" }

    /// Has no parameters.
    public init(_ source: inout PluginSource) {
        name = source.name
    }

    /// Keeps all without the header. An IPv6 host may stand in brackets or not.
    public func filter(_ candidates: inout [Int], in context: SchedulingContext) {
        guard let list = context.request.headers.value(ofHeader: Self.header) else { return }
        let wanted = list.split(separator: ",").map { entry in
            String(entry.drop { $0 == " " }.prefix { $0 != " " })
        }
        candidates.removeAll { candidate in
            let address = context.endpoints[candidate].server.address
            return !wanted.contains { entry in
                entry == address.host || entry == "[\(address.host)]"
                    || entry == context.endpoints[candidate].address
            }
        }
    }
}
