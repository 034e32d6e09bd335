/// A model as an engine lists it in `/v1/models`.
public struct ServedModel: Hashable, Sendable, ExpressibleByStringLiteral {
    /// The name that requests ask for.
    public var id: String
    /// The model that this is an adapter of, if it is one.
    public var parent: String?
    /// Where it was loaded from.
    public var root: String?
    /// The most tokens of prompt and answer together.
    public var maximumLength: Int?
    /// Who made it available.
    public var owner: String?

    /// A model of which only the name is known.
    public init(id: String) {
        self.id = id
    }

    /// A model of which only the name is known.
    public init(stringLiteral id: String) {
        self.init(id: id)
    }
}

/// The models of a pool, and who serves them. Immutable.
struct ModelCatalog: Sendable {
    private struct Entry {
        var model: ServedModel
        /// The endpoints that list it.
        var endpoints: Set<UInt32>
    }

    private let entries: [String: Entry]
    /// The endpoints that have not listed their models yet.
    private let unknown: Set<UInt32>
    private let endpointCount: Int

    init(_ modelsByEndpoint: [UInt32: [ServedModel]], endpoints: [UInt32]) {
        var entries: [String: Entry] = [:]
        for endpoint in endpoints {
            for model in modelsByEndpoint[endpoint] ?? [] {
                entries[model.id, default: Entry(model: model, endpoints: [])].endpoints
                    .insert(endpoint)
            }
        }
        self.entries = entries
        unknown = Set(endpoints.filter { modelsByEndpoint[$0] == nil })
        endpointCount = endpoints.count
    }

    var models: [ServedModel] { entries.values.map(\.model).sorted { $0.id < $1.id } }

    subscript(id: String) -> ServedModel? { entries[id]?.model }

    /// The endpoints that may serve a model: those that list it, and those of which it is not
    /// known. Nil for all: if every endpoint may, or none is known to.
    func endpoints(serving model: String) -> Set<UInt32>? {
        guard let entry = entries[model] else { return nil }
        let serving = entry.endpoints.union(unknown)
        return serving.count == endpointCount ? nil : serving
    }
}
