import Core

/// One value per endpoint number.
struct EndpointArray<Value> {
    private var values: [Value] = []

    subscript(endpoint: EndpointHandle) -> Value {
        get { values[Int(endpoint.index)] }
        _modify { yield &values[Int(endpoint.index)] }
    }

    /// Sets the value of a number in use, or of the next one.
    mutating func set(_ value: Value, for endpoint: EndpointHandle) {
        if Int(endpoint.index) == values.count {
            values.append(value)
        } else {
            values[Int(endpoint.index)] = value
        }
    }
}

extension EndpointArray: Sendable where Value: Sendable {}

/// The endpoints by name and by number, and the groups of hybrid models, which take numbers too.
struct EndpointRegistry {
    struct Record {
        let name: String
        /// Whose rank above 0 it is, by the name of rank 0; nil for all others.
        let main: String?
        var parked = ParkedStores()
        /// The group that stands for the endpoint itself; nil until one is seen.
        var mainGroup: Group?
        /// The others, each a holder of its own.
        var groups: [HybridGroup] = []
        var counters = EndpointCounters()
    }

    /// A group that is a holder of its own.
    struct HybridGroup {
        let id: Int?
        let holder: UInt16
        let rule: GroupRule
    }

    /// A KV-cache group as events name it.
    enum Group: Equatable {
        case unnamed
        case named(Int)
    }

    private var handles: [String: EndpointHandle] = [:]
    /// The ranks above 0, in their order, by the name of rank 0.
    private var furtherRanks: [String: [EndpointRank]] = [:]
    private var records: [Record?] = []
    /// Numbers that may be given again, longest free first.
    private var free: [UInt16] = []
    /// Numbers left free while there are others: they may still stand in somebody's matches.
    private static let restingCount = 64

    /// Past the highest number in use.
    var limit: Int { records.count }
    var count: Int { handles.count }

    func contains(_ endpoint: EndpointHandle) -> Bool {
        records.indices.contains(Int(endpoint.index)) && records[Int(endpoint.index)] != nil
    }

    subscript(name: String) -> EndpointHandle? { handles[name] }

    /// The record of a registered endpoint, in place.
    subscript(endpoint: EndpointHandle) -> Record {
        get {
            guard let record = records[Int(endpoint.index)] else {
                preconditionFailure("endpoint \(endpoint.index) is not registered")
            }
            return record
        }
        _modify {
            guard var record = records[Int(endpoint.index)] else {
                preconditionFailure("endpoint \(endpoint.index) is not registered")
            }
            records[Int(endpoint.index)] = nil
            defer { records[Int(endpoint.index)] = record }
            yield &record
        }
    }

    /// All ranks of an endpoint; none if it is not registered.
    func ranks(of name: String) -> [EndpointRank] {
        let first = handles[name].map { [EndpointRank(rank: 0, handle: $0)] } ?? []
        guard let further = furtherRanks[name] else { return first }
        return first + further
    }

    /// Makes a registered endpoint a rank of another.
    private mutating func add(_ rank: EndpointRank, to main: String) {
        var ranks = furtherRanks[main] ?? []
        ranks.insert(rank, at: ranks.firstIndex { $0.rank > rank.rank } ?? ranks.count)
        furtherRanks[main] = ranks
    }

    /// Gives a new name its number; `rank` is above 0 if it is one of `main`'s ranks.
    mutating func insert(_ name: String, rank: Int = 0, of main: String? = nil) throws(KVIndexError)
        -> EndpointHandle
    {
        guard count < KVIndex.maximumEndpointCount, let number = takeNumber() else {
            throw .tooManyEndpoints
        }
        let handle = EndpointHandle(index: number)
        records[Int(number)] = Record(name: name, main: main)
        handles[name] = handle
        if let main { add(EndpointRank(rank: rank, handle: handle), to: main) }
        return handle
    }

    /// A number for an endpoint or a group; nil if all are in use.
    mutating func takeNumber() -> UInt16? {
        let isFull = records.count == BlockTables.holderLimit - 1
        if free.count > (isFull ? 0 : Self.restingCount) { return free.removeFirst() }
        guard !isFull else { return nil }
        records.append(nil)
        return UInt16(records.count - 1)
    }

    /// Takes the name away, so that a new endpoint may have it; the record stays.
    mutating func forgetName(of endpoint: EndpointHandle) {
        let name = self[endpoint].name
        if handles[name] == endpoint { handles[name] = nil }
        guard let main = self[endpoint].main else { return }
        furtherRanks[main]?.removeAll { $0.handle == endpoint }
        if furtherRanks[main]?.isEmpty == true { furtherRanks[main] = nil }
    }

    /// Frees the numbers of an endpoint that holds nothing more, and of its groups.
    mutating func remove(_ endpoint: EndpointHandle) {
        free.append(contentsOf: self[endpoint].groups.map(\.holder))
        records[Int(endpoint.index)] = nil
        free.append(endpoint.index)
    }
}
