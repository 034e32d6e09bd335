import Foundation

/// One figure of a performance suite: what ours takes beside a peer, and the floor below which no
/// implementation gets on this machine. Printed as one line of JSON with the keys that
/// ``CodingKeys`` lists; what is missing is null.
public struct Row: Encodable, Sendable {
    /// The suite, such as `hashing`.
    public var suite: String
    /// What was measured, such as `sha256_cbor, block 16`.
    public var name: String
    /// What the figure counts, such as `CPU time`.
    public var metric: String
    /// Its unit, such as `ns/block`.
    public var unit: String
    /// Our figure: the median of the rounds, with their extremes.
    public var ours: Measurement
    /// The peer's name and the median of its rounds.
    public var peer: (name: String, value: Double)?
    /// The median of the floor's rounds.
    public var floor: Double?
    /// What was asked for.
    public var goal: Goal?

    /// What a figure has to reach.
    public enum Goal: Sendable, CustomStringConvertible {
        /// At most this many times the peer's figure, of which less is better.
        case ratioToPeer(atMost: Double)
        /// At most this many times the floor, of which less is better, and so much more.
        case ratioToFloor(atMost: Double, plus: Double = 0)
        /// At most this much, in the row's unit.
        case atMost(Double)
        /// At least this many times the peer's figure, of which more is better.
        case atLeastOfPeer(Double)
        /// At least this part of the floor's figure, of which more is better.
        case atLeastOfFloor(Double)

        /// The goal in words.
        public var description: String {
            switch self {
            case .ratioToPeer(let limit): "<= \(limit)x peer"
            case .ratioToFloor(let limit, plus: 0): "<= \(limit)x floor"
            case .ratioToFloor(let limit, let more): "<= \(limit)x floor + \(more)"
            case .atMost(let limit): "<= \(limit)"
            case .atLeastOfPeer(let limit): ">= \(limit)x peer"
            case .atLeastOfFloor(let limit): ">= \(limit)x floor"
            }
        }
    }

    /// Makes a row.
    public init(
        suite: String, name: String, metric: String, unit: String, ours: Measurement,
        peer: (name: String, value: Double)? = nil, floor: Double? = nil, goal: Goal? = nil
    ) {
        self.suite = suite
        self.name = name
        self.metric = metric
        self.unit = unit
        self.ours = ours
        self.peer = peer
        self.floor = floor
        self.goal = goal
    }

    private var ratioToPeer: Double? { peer.map { ours.median / $0.value } }
    private var ratioToFloor: Double? { floor.map { ours.median / $0 } }

    /// Whether the goal is met; nil without a goal, or without the figure that it speaks of.
    public var isMet: Bool? {
        switch goal {
        case .ratioToPeer(let limit): ratioToPeer.map { $0 <= limit }
        case .ratioToFloor(let limit, let more): floor.map { ours.median <= limit * $0 + more }
        case .atMost(let limit): ours.median <= limit
        case .atLeastOfPeer(let limit): ratioToPeer.map { $0 >= limit }
        case .atLeastOfFloor(let limit): ratioToFloor.map { $0 >= limit }
        case nil: nil
        }
    }

    enum CodingKeys: String, CodingKey {
        case suite
        case name = "case"
        case metric, unit, ours, peer
        case peerValue = "peer_value"
        case floor
        case ratioToPeer = "ratio_to_peer"
        case ratioToFloor = "ratio_to_floor"
        case goal
        case isMet = "met"
        case runs, min, max
    }

    /// Encodes all keys.
    public func encode(to encoder: any Encoder) throws {
        var row = encoder.container(keyedBy: CodingKeys.self)
        try row.encode(suite, forKey: .suite)
        try row.encode(name, forKey: .name)
        try row.encode(metric, forKey: .metric)
        try row.encode(unit, forKey: .unit)
        try row.encode(rounded(ours.median), forKey: .ours)
        try row.encode(peer?.name, forKey: .peer)
        try row.encode(peer.map { rounded($0.value) }, forKey: .peerValue)
        try row.encode(floor.map(rounded), forKey: .floor)
        try row.encode(ratioToPeer.map(rounded), forKey: .ratioToPeer)
        try row.encode(ratioToFloor.map(rounded), forKey: .ratioToFloor)
        try row.encode(goal?.description, forKey: .goal)
        try row.encode(isMet, forKey: .isMet)
        try row.encode(ours.rounds.count, forKey: .runs)
        try row.encode(rounded(ours.rounds.min() ?? .nan), forKey: .min)
        try row.encode(rounded(ours.rounds.max() ?? .nan), forKey: .max)
    }

    /// Prints the row to standard output.
    public func print() throws {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        try FileHandle.standardOutput.write(contentsOf: encoder.encode(self) + Data("\n".utf8))
    }
}

/// To three decimals: the rest is noise.
private func rounded(_ value: Double) -> Double {
    (value * 1000).rounded() / 1000
}
