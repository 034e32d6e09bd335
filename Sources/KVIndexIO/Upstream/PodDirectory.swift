import KVIndex
import RedisClient

/// The pool's endpoints by the names that Redis has for them. Loop-bound.
struct PodDirectory {
    private enum Field {
        case place(ImportedBlocks.Place)
        case ignored
        case malformed
    }

    /// More fields than that a block cannot have: a few for each endpoint.
    private static let maximumFieldCount = 8 * KVIndex.maximumEndpointCount
    private static let maximumKnownFieldCount = 1 << 14

    private let numbers: [String: UInt32]
    /// Fields as they were read, which are the same in many blocks.
    private var fields: [String: Field] = [:]

    /// A directory of endpoints' numbers by their addresses.
    init(_ numbers: [String: UInt32]) {
        self.numbers = numbers
    }

    /// Who of the pool holds a block by Redis' word, and how many fields are not llm-d's.
    mutating func places(in reply: RedisReply)
        -> (places: Set<ImportedBlocks.Place>, malformedCount: Int)
    {
        var places: Set<ImportedBlocks.Place> = []
        var malformedCount = 0
        for number in 0..<min(reply.count, Self.maximumFieldCount) {
            switch reply[number].text.map({ field($0) }) ?? .malformed {
            case .place(let place): places.insert(place)
            case .ignored: break
            case .malformed: malformedCount += 1
            }
        }
        return (places, malformedCount)
    }

    private mutating func field(_ text: String) -> Field {
        if let known = fields[text] { return known }
        if fields.count >= Self.maximumKnownFieldCount { fields = [:] }
        let field: Field
        if let entry = PodEntry(Array(text.utf8)) {
            // What others foretell is not there yet.
            let number = entry.isSpeculative ? nil : numbers[entry.pod]
            field = number.map { .place(.init(endpoint: $0, tier: entry.tier)) } ?? .ignored
        } else {
            field = .malformed
        }
        fields[text] = field
        return field
    }
}
