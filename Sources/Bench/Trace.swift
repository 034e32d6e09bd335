import Foundation
import Scan

/// One request of a trace: when it came, how long it was, and which prefix it shared with whom.
public struct TraceRequest: Equatable, Sendable {
    /// Milliseconds since the start of the trace.
    public var timestamp: Double
    /// Prompt tokens.
    public var inputLength: Int
    /// Tokens to generate.
    public var outputLength: Int
    /// One id per block of ``Trace/blockTokens`` prompt tokens, the last block partial. Equal ids
    /// at equal places, after equal ids, stand for equal tokens.
    public var hashIDs: [Int]

    /// Makes a request.
    public init(timestamp: Double, inputLength: Int, outputLength: Int, hashIDs: [Int]) {
        self.timestamp = timestamp
        self.inputLength = inputLength
        self.outputLength = outputLength
        self.hashIDs = hashIDs
    }
}

/// A request trace in the format of Mooncake's releases (kvcache-ai/Mooncake,
/// FAST25-release/traces): JSON lines with `timestamp`, `input_length`, `output_length` and
/// `hash_ids`.
public struct Trace: Equatable, Sendable {
    /// Prompt tokens that one hash id stands for.
    public static let blockTokens = 512

    /// The requests in the order of their timestamps.
    public var requests: [TraceRequest]

    /// Makes a trace of requests that are in order already.
    public init(requests: [TraceRequest]) {
        self.requests = requests
    }

    /// Reads the first `limit` requests of a trace file.
    ///
    /// - Throws: ``TraceError`` with file and line.
    public init(contentsOf path: String, limit: Int? = nil) throws(TraceError) {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw TraceError(path: path, line: nil, problem: "cannot be read")
        }
        requests = []
        let lines = data.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        for (index, line) in lines.enumerated() where !line.isEmpty {
            if requests.count == limit { break }
            do {
                requests.append(try Self.request(fromJSON: [UInt8](line)))
            } catch {
                throw TraceError(path: path, line: index + 1, problem: error.problem)
            }
        }
        guard !requests.isEmpty else {
            throw TraceError(path: path, line: nil, problem: "holds no request")
        }
        requests.sort { $0.timestamp < $1.timestamp }
    }

    /// The trace with requests spread evenly over intervals of `milliseconds`, which their
    /// timestamps were rounded to: else those of an interval would come all at once, which nobody
    /// sent so. Their order stays.
    public func spread(over milliseconds: Double) -> Trace {
        var spread = requests
        var start = 0
        while start < spread.count {
            let interval = (spread[start].timestamp / milliseconds).rounded()
            let end =
                spread[start...].firstIndex {
                    ($0.timestamp / milliseconds).rounded() != interval
                } ?? spread.count
            for index in start..<end {
                let share = Double(index - start) / Double(end - start)
                spread[index].timestamp = (interval + share) * milliseconds
            }
            start = end
        }
        return Trace(requests: spread)
    }

    private struct LineProblem: Error { var problem: String }

    private static func request(fromJSON line: [UInt8]) throws(LineProblem) -> TraceRequest {
        let document: JSONDocument
        do {
            document = try JSONDocument.parse(line)
        } catch {
            throw LineProblem(problem: "is not JSON: \(error)")
        }
        func number(_ key: String) throws(LineProblem) -> Double {
            guard let value = document.root[key]?.double else {
                throw LineProblem(problem: "has no number '\(key)'")
            }
            return value
        }
        let timestamp = try number("timestamp")
        let input = try number("input_length")
        let output = try number("output_length")
        guard timestamp >= 0, input >= 1, input < 1e8, output >= 0, output < 1e8 else {
            throw LineProblem(problem: "has a negative or absurd number")
        }
        guard let ids = document.root["hash_ids"], ids.kind == .array else {
            throw LineProblem(problem: "has no array 'hash_ids'")
        }
        var hashIDs: [Int] = []
        for id in ids.elements {
            guard let id = id.int else {
                throw LineProblem(problem: "has a hash id that is no whole number")
            }
            hashIDs.append(id)
        }
        guard hashIDs.count * blockTokens >= Int(input) else {
            throw LineProblem(
                problem: "has \(hashIDs.count) hash ids, too few for \(Int(input)) tokens")
        }
        return TraceRequest(
            timestamp: timestamp, inputLength: Int(input), outputLength: Int(output),
            hashIDs: hashIDs)
    }
}

/// A trace file that cannot be used.
public struct TraceError: Error, Equatable, CustomStringConvertible {
    /// The file.
    public var path: String
    /// The line, from 1, if one is to blame.
    public var line: Int?
    /// What is wrong, as the end of a sentence that starts with the place.
    public var problem: String

    /// One line for people.
    public var description: String {
        "trace \(path)\(line.map { ":\($0)" } ?? "") \(problem)"
    }
}
