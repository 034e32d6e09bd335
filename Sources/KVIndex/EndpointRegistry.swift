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

/// The endpoints by name and by number.
struct EndpointRegistry {
    struct Record {
        let name: String
        var parked = ParkedStores()
        var indexedGroup: IndexedGroup?
    }

    /// The one KV-cache group whose events are indexed: all groups of an engine hash alike, so
    /// that a removal from another group would hide a block that is still there.
    enum IndexedGroup: Equatable {
        case unnamed
        case named(Int)
    }

    /// Keeps the engine hashes of endpoints apart: equal hashes of two engines may stand for
    /// different blocks.
    private(set) var salts = EndpointArray<UInt64>()
    var counters = EndpointArray<EndpointCounters>()

    private var handles: [String: EndpointHandle] = [:]
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

    /// Gives a new name its number.
    mutating func insert(_ name: String) throws(KVIndexError) -> EndpointHandle {
        let handle: EndpointHandle
        let isFull = records.count == KVIndex.maximumEndpointCount
        if free.count > (isFull ? 0 : Self.restingCount) {
            handle = EndpointHandle(index: free.removeFirst())
            records[Int(handle.index)] = Record(name: name)
        } else if !isFull {
            handle = EndpointHandle(index: UInt16(records.count))
            records.append(Record(name: name))
        } else {
            throw .tooManyEndpoints
        }
        salts.set(.random(in: 0 ... .max), for: handle)
        counters.set(EndpointCounters(), for: handle)
        handles[name] = handle
        return handle
    }

    /// Takes the name away, so that a new endpoint may have it; the record stays.
    mutating func forgetName(of endpoint: EndpointHandle) {
        let name = self[endpoint].name
        if handles[name] == endpoint { handles[name] = nil }
    }

    /// Frees the number of an endpoint that holds nothing more.
    mutating func remove(_ endpoint: EndpointHandle) {
        records[Int(endpoint.index)] = nil
        free.append(endpoint.index)
    }
}
