internal import Core
internal import Scan
internal import Scheduling

// The lines of a record file; docs/replay.md describes them.

enum RecordFormat {
    /// Grows with each change that an older reader would misread.
    static let version = 1
}

extension JSONWriter {
    /// The first line of a file, and of each process that goes on with it.
    mutating func header(_ plugins: [RecordedPlugin]) {
        beginObject()
        member("record", "llmd decisions")
        member("version", RecordFormat.version)
        list("plugins", plugins) { writer, plugin in
            writer.beginObject()
            writer.member("name", plugin.name)
            writer.member("type", plugin.type)
            writer.member("parameters", String(plugin.fingerprint, radix: 16))
            writer.endObject()
        }
        endObject()
    }

    /// The endpoints that later lines name by their places here.
    mutating func pool(_ pool: DecisionRecord.Pool) {
        beginObject()
        member("pool", pool.generation)
        list("endpoints", pool.endpoints) { writer, endpoint in
            writer.beginObject()
            writer.member("name", endpoint.server.name)
            writer.member("address", endpoint.address)
            writer.key("labels")
            writer.beginObject()
            for (label, value) in endpoint.server.labels.sorted(by: { $0.key < $1.key }) {
                writer.member(label, value)
            }
            writer.endObject()
            writer.endObject()
        }
        endObject()
    }

    /// A decision.
    mutating func decision(_ record: DecisionRecord) {
        beginObject()
        member("time", record.time)
        member("id", record.id)
        member("model", record.model)
        member("targetModel", record.targetModel)
        member("priority", record.priority)
        member("promptTokens", record.promptTokenCount)
        if let ttft = record.ttftObjective { member("ttftNs", Int(ttft.nanoseconds)) }
        if let tpot = record.tpotObjective { member("tpotNs", Int(tpot.nanoseconds)) }
        if record.wantsCachedPrompt { member("ifAvailable", true) }
        if !record.media.isEmpty { list("media", record.media) { $0.string($1.rawValue) } }
        member("pool", record.pool.generation)
        member("seed", String(record.seed, radix: 16))
        ints("eligible", record.eligible)
        list("loads", record.loads) { $0.load($1, now: record.now) }
        ints("inFlight", record.inFlight)
        ints("prefillTokens", record.prefillTokensInFlight)
        if !record.outputTokensInFlight.isEmpty {
            ints("outputTokens", record.outputTokensInFlight)
        }
        findings(record)
        steps(record)
        switch record.outcome {
        case .failed(let reason): member("failed", reason)
        case .picked(let result): picks(result)
        }
        endObject()
    }

    private mutating func load(_ load: ServerLoad, now: MonotonicTime) {
        beginObject()
        member("waiting", load.waitingCount)
        member("running", load.runningCount)
        key("kv")
        number(load.kvUsage)
        if let scrapedAt = load.scrapedAt { member("ageNs", Int((now - scrapedAt).nanoseconds)) }
        if let size = load.blockSize { member("blockSize", size) }
        if let count = load.blockCount { member("blocks", count) }
        if let lora = load.lora {
            key("lora")
            beginObject()
            member("max", lora.maximumCount)
            list("running", lora.running) { $0.string($1) }
            list("waiting", lora.waiting) { $0.string($1) }
            endObject()
        }
        if !load.attributes.isEmpty {
            key("attributes")
            beginObject()
            for (name, value) in load.attributes.sorted(by: { $0.key < $1.key }) {
                key(name)
                number(value)
            }
            endObject()
        }
        endObject()
    }

    private mutating func findings(_ record: DecisionRecord) {
        list("prefix", record.prefixMatches) { writer, match in
            writer.beginObject()
            writer.member("producer", match.producer)
            writer.member("blockSize", match.blockSize)
            writer.member("blocks", match.totalBlocks)
            writer.ints("matched", match.matchedBlocks)
            writer.list("weighted", match.weightedBlocks) { $0.number($1) }
            writer.endObject()
        }
        if !record.mediaMatches.isEmpty {
            list("mediaMatches", record.mediaMatches) { writer, match in
                writer.beginObject()
                writer.member("producer", match.producer)
                writer.member("size", match.totalSize)
                writer.ints("matched", match.matchedSizes)
                writer.endObject()
            }
        }
        if !record.predictions.isEmpty {
            list("predictions", record.predictions) { writer, prediction in
                guard let prediction else { return writer.null() }
                writer.beginArray()
                writer.number(prediction.ttftMilliseconds)
                writer.number(prediction.tpotMilliseconds)
                writer.endArray()
            }
        }
    }

    private mutating func steps(_ record: DecisionRecord) {
        list("filters", record.filters) { writer, filter in
            writer.beginObject()
            writer.member("profile", filter.profile)
            writer.member("filter", filter.filter.name)
            writer.ints("left", filter.candidates)
            writer.endObject()
        }
        // One entry for each run of a scorer.
        var runs: [ArraySlice<ScoreRecord>] = []
        for (place, score) in record.scores.enumerated() {
            let isNew =
                place == 0 || record.scores[place - 1].profile != score.profile
                || record.scores[place - 1].scorer != score.scorer
            if isNew { runs.append([]) }
            runs[runs.count - 1].append(score)
        }
        list("scores", runs) { writer, run in
            guard let first = run.first else { return }
            writer.beginObject()
            writer.member("profile", first.profile)
            writer.member("scorer", first.scorer.name)
            writer.ints("endpoints", run.map(\.candidate))
            writer.list("values", run) { $0.number($1.score) }
            writer.endObject()
        }
    }

    private mutating func picks(_ result: SchedulingResult) {
        for (key, picks) in [
            ("picked", result.primary), ("prefill", result.prefill), ("encode", result.encode),
        ] where key == "picked" || !picks.isEmpty {
            list(key, picks) { writer, pick in
                writer.beginArray()
                writer.int(pick.index)
                writer.number(pick.score)
                writer.endArray()
            }
        }
        member("prefillProfile", result.prefillProfile)
        member("encodeProfile", result.encodeProfile)
    }

    private mutating func ints(_ name: String, _ values: [Int]) {
        list(name, values) { $0.int($1) }
    }

    private mutating func list<Elements: Collection>(
        _ name: String, _ elements: Elements, _ write: (inout JSONWriter, Elements.Element) -> Void
    ) {
        key(name)
        beginArray()
        for element in elements { write(&self, element) }
        endArray()
    }

    /// A number, or a string for what JSON has no number for.
    private mutating func number(_ value: Double) {
        if value.isFinite { double(value) } else { string("\(value)") }
    }
}
