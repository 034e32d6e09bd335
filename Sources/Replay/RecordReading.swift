internal import Core
internal import Scan
internal import Scheduling

/// What is wrong with a record file, and where.
public struct RecordError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The file as the user named it.
    public var file: String
    /// Counted from 1; nil if it is not about a line.
    public var line: Int?
    /// What is wrong, for people.
    public var problem: String

    /// `file:line: problem`.
    public var description: String {
        line.map { "\(file):\($0): \(problem)" } ?? "\(file): \(problem)"
    }
}

/// What a line does not have, without its place.
struct RecordProblem: Error {
    var text: String

    init(_ text: String) {
        self.text = text
    }
}

/// A line of a record file.
enum RecordLine {
    case header([RecordedPlugin])
    case pool(DecisionRecord.Pool)
    case decision(DecisionRecord)

    /// Reads a line. `pools` are those of the lines before.
    init(_ bytes: [UInt8], pools: [Int: DecisionRecord.Pool]) throws(RecordProblem) {
        let root: JSONValue
        do {
            root = try JSONDocument.parse(bytes).root
        } catch {
            throw RecordProblem("is no JSON: \(error)")
        }
        if root["record"] != nil {
            self = .header(try Self.header(root))
        } else if root["endpoints"] != nil {
            self = .pool(try Self.pool(root))
        } else {
            self = .decision(try DecisionRecord(root, pools: pools))
        }
    }

    private static func header(_ root: JSONValue) throws(RecordProblem) -> [RecordedPlugin] {
        let version = try root.int("version")
        guard version == RecordFormat.version else {
            throw RecordProblem(
                "has version \(version) of the format; this reads \(RecordFormat.version)")
        }
        return try root.list("plugins") { (plugin) throws(RecordProblem) in
            RecordedPlugin(
                name: try plugin.text("name"), type: try plugin.text("type"),
                fingerprint: try plugin.hex("parameters"))
        }
    }

    private static func pool(_ root: JSONValue) throws(RecordProblem) -> DecisionRecord.Pool {
        var number: UInt32 = 0
        return DecisionRecord.Pool(
            generation: try root.int("pool"),
            endpoints: try root.list("endpoints") { (value) throws(RecordProblem) in
                let text = try value.text("address")
                guard let address = try? SocketAddress(parsing: text) else {
                    throw RecordProblem("has an address that is none: '\(text)'")
                }
                var labels: [String: String] = [:]
                for (label, value) in try value.value("labels").members {
                    labels[label] = value.string
                }
                number += 1
                return Endpoint(
                    ModelServer(name: try value.text("name"), address: address, labels: labels),
                    id: number)
            })
    }
}

extension DecisionRecord {
    /// `now` of decisions that were read: far enough from 0 for any age.
    private static let readAt = MonotonicTime(nanoseconds: 1 << 62)

    fileprivate init(_ root: JSONValue, pools: [Int: Pool]) throws(RecordProblem) {
        let generation = try root.int("pool")
        guard let pool = pools[generation] else {
            throw RecordProblem("names pool \(generation), of which no line tells")
        }
        let count = pool.endpoints.count
        id = try root.text("id")
        time = try root.int("time")
        model = try root.text("model")
        targetModel = try root.text("targetModel")
        priority = try root.int("priority")
        promptTokenCount = try root.int("promptTokens")
        ttftObjective = root["ttftNs"]?.int.map { .nanoseconds(Int64($0)) }
        tpotObjective = root["tpotNs"]?.int.map { .nanoseconds(Int64($0)) }
        wantsCachedPrompt = root["ifAvailable"]?.bool ?? false
        media = try root.optionalList("media") { (value) throws(RecordProblem) in
            guard let kind = value.string.flatMap(MediaItem.Kind.init) else {
                throw RecordProblem("has media of an unknown kind")
            }
            return kind
        }
        self.pool = pool
        seed = try root.hex("seed")
        now = Self.readAt
        eligible = try root.places("eligible", of: count)
        loads = try root.list("loads", count: count) { (value) throws(RecordProblem) in
            try Self.load(value)
        }
        inFlight = try root.ints("inFlight", count: count)
        prefillTokensInFlight = try root.ints("prefillTokens", count: count)
        outputTokensInFlight =
            root["outputTokens"] == nil ? [] : try root.ints("outputTokens", count: count)
        prefixMatches = try root.list("prefix") { (value) throws(RecordProblem) in
            var match = PrefixCacheMatch(producer: try value.text("producer"))
            match.blockSize = try value.int("blockSize")
            match.totalBlocks = try value.int("blocks")
            match.matchedBlocks = try value.ints("matched", count: count)
            match.weightedBlocks = try value.list("weighted", count: count) {
                (value) throws(RecordProblem) in try value.number()
            }
            return match
        }
        mediaMatches = try root.optionalList("mediaMatches") { (value) throws(RecordProblem) in
            var match = MediaCacheMatch(producer: try value.text("producer"))
            match.totalSize = try value.int("size")
            match.matchedSizes = try value.ints("matched", count: count)
            return match
        }
        predictions = try root.optionalList("predictions") { (value) throws(RecordProblem) in
            if value.isNull { return nil }
            let pair = try value.pair()
            return LatencyPrediction(
                ttftMilliseconds: try pair.0.number(), tpotMilliseconds: try pair.1.number())
        }
        guard predictions.isEmpty || predictions.count == count else {
            throw RecordProblem("has predictions for \(predictions.count) of \(count) endpoints")
        }
        filters = try root.list("filters") { (value) throws(RecordProblem) in
            FilterRecord(
                profile: try value.text("profile"),
                filter: PluginName(type: "", name: try value.text("filter")),
                candidates: try value.places("left", of: count))
        }
        scores = try Self.scores(root, count)
        outcome = try Self.outcome(root, count)
    }

    private static func load(_ value: JSONValue) throws(RecordProblem) -> ServerLoad {
        var load = ServerLoad()
        load.waitingCount = try value.int("waiting")
        load.runningCount = try value.int("running")
        load.kvUsage = try value.value("kv").number()
        load.scrapedAt = value["ageNs"]?.int.map {
            Self.readAt + .nanoseconds(Int64(-$0))
        }
        load.blockSize = value["blockSize"]?.int
        load.blockCount = value["blocks"]?.int
        if let lora = value["lora"] {
            load.lora = LoRALoad(
                maximumCount: try lora.int("max"), running: try lora.texts("running"),
                waiting: try lora.texts("waiting"))
        }
        if let attributes = value["attributes"] {
            for (name, value) in attributes.members {
                load.attributes[name] = try value.number()
            }
        }
        return load
    }

    private static func scores(
        _ root: JSONValue, _ count: Int
    ) throws(RecordProblem) -> [ScoreRecord] {
        var scores: [ScoreRecord] = []
        for value in try root.value("scores").elements {
            let profile = try value.text("profile")
            let scorer = PluginName(type: "", name: try value.text("scorer"))
            let endpoints = try value.places("endpoints", of: count)
            let values = try value.list("values", count: endpoints.count) {
                (value) throws(RecordProblem) in try value.number()
            }
            for (endpoint, value) in zip(endpoints, values) {
                scores.append(
                    ScoreRecord(
                        profile: profile, scorer: scorer, candidate: endpoint, score: value))
            }
        }
        return scores
    }

    private static func outcome(
        _ root: JSONValue, _ count: Int
    ) throws(RecordProblem) -> Outcome {
        if let reason = root["failed"]?.string { return .failed(reason) }
        func picks(_ name: String) throws(RecordProblem) -> [ScoredCandidate] {
            try root.optionalList(name) { (value) throws(RecordProblem) in
                let pair = try value.pair()
                guard let index = pair.0.int, (0..<count).contains(index) else {
                    throw RecordProblem("has a '\(name)' that is no endpoint of its pool")
                }
                return ScoredCandidate(index: index, score: try pair.1.number())
            }
        }
        let primary = try picks("picked")
        guard !primary.isEmpty else { throw RecordProblem("has neither 'picked' nor 'failed'") }
        return .picked(
            SchedulingResult(
                primary: primary, prefill: try picks("prefill"), encode: try picks("encode"),
                prefillProfile: try root.text("prefillProfile"),
                encodeProfile: try root.text("encodeProfile")))
    }
}

// Members that must be there, of the type that they must have.
extension JSONValue {
    fileprivate func value(_ key: String) throws(RecordProblem) -> JSONValue {
        guard let value = self[key] else { throw RecordProblem("has no '\(key)'") }
        return value
    }

    fileprivate func int(_ key: String) throws(RecordProblem) -> Int {
        guard let value = try value(key).int else {
            throw RecordProblem("has a '\(key)' that is no whole number")
        }
        return value
    }

    fileprivate func text(_ key: String) throws(RecordProblem) -> String {
        guard let value = try value(key).string else {
            throw RecordProblem("has a '\(key)' that is no string")
        }
        return value
    }

    fileprivate func hex(_ key: String) throws(RecordProblem) -> UInt64 {
        guard let value = UInt64(try text(key), radix: 16) else {
            throw RecordProblem("has a '\(key)' that is no hexadecimal number")
        }
        return value
    }

    /// A number, or the text of what JSON has no number for.
    fileprivate func number() throws(RecordProblem) -> Double {
        guard let value = double ?? string.flatMap({ Double($0) }) else {
            throw RecordProblem("has something else where a number belongs")
        }
        return value
    }

    fileprivate func list<Element>(
        _ key: String, count: Int? = nil,
        _ read: (JSONValue) throws(RecordProblem) -> Element
    ) throws(RecordProblem) -> [Element] {
        let list = try value(key)
        guard list.kind == .array else { throw RecordProblem("has a '\(key)' that is no list") }
        var elements: [Element] = []
        for value in list.elements { elements.append(try read(value)) }
        guard count == nil || elements.count == count else {
            throw RecordProblem("has \(elements.count) elements in '\(key)', not \(count ?? 0)")
        }
        return elements
    }

    fileprivate func optionalList<Element>(
        _ key: String, _ read: (JSONValue) throws(RecordProblem) -> Element
    ) throws(RecordProblem) -> [Element] {
        self[key] == nil ? [] : try list(key, read)
    }

    fileprivate func ints(_ key: String, count: Int? = nil) throws(RecordProblem) -> [Int] {
        try list(key, count: count) { (value) throws(RecordProblem) in
            guard let int = value.int else {
                throw RecordProblem("has a '\(key)' that is no list of whole numbers")
            }
            return int
        }
    }

    fileprivate func texts(_ key: String) throws(RecordProblem) -> [String] {
        try list(key) { (value) throws(RecordProblem) in
            guard let text = value.string else {
                throw RecordProblem("has a '\(key)' that is no list of strings")
            }
            return text
        }
    }

    /// Numbers of endpoints.
    fileprivate func places(_ key: String, of count: Int) throws(RecordProblem) -> [Int] {
        let places = try ints(key)
        guard places.allSatisfy((0..<count).contains) else {
            throw RecordProblem("has endpoints in '\(key)' that its pool has not")
        }
        return places
    }

    fileprivate func pair() throws(RecordProblem) -> (JSONValue, JSONValue) {
        var elements = self.elements
        guard let first = elements.next(), let second = elements.next(), elements.next() == nil
        else { throw RecordProblem("has something else where a pair belongs") }
        return (first, second)
    }
}
