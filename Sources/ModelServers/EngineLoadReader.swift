public import Core
public import Scan

/// Reads the load of an engine out of its metrics pages, which come in pieces. Belongs to one
/// thread at a time.
///
/// Only lines of the wanted names are read. What is told in labels is read once and remembered
/// while the labels are the same, so that a page like the one before allocates nothing.
public final class EngineLoadReader: PageConsumer {
    private enum Role {
        case queued, running, kvUsage, lora, cacheInfo, blockSize, blockCount
        case custom(String)
    }

    private struct Figure {
        var role: Role
        var labels: [String: String]
    }

    private struct CacheSize {
        var blockSize: Int?
        var blockCount: Int?
    }

    private let search: PrometheusSearch
    /// The figures that samples of each name may be, by the name's place in the search.
    private let figures: [[Figure]]
    private let blockSizeLabel: String
    private let blockCountLabel: String

    private var load = ServerLoad()
    private var isFound = false
    private var newestLoRA = -Double.infinity
    private var error: ScanError?
    private var loras = LabelMemory<LoRALoad?>()
    private var cacheSizes = LabelMemory<CacheSize>()

    /// Makes a reader for one engine.
    public init(_ metrics: EngineMetrics) {
        let wanted: [(Role, MetricSpec?)] =
            [
                (.queued, metrics.queuedRequests), (.running, metrics.runningRequests),
                (.kvUsage, metrics.kvUsage), (.lora, metrics.lora),
                (.cacheInfo, metrics.cacheInfo), (.blockSize, metrics.blockSize),
                (.blockCount, metrics.blockCount),
            ] + metrics.custom.map { (.custom($0.attribute), $0.spec) }
        var names: [String] = []
        var figures: [[Figure]] = []
        for case (let role, let spec?) in wanted {
            let figure = Figure(role: role, labels: spec.labels)
            if let place = names.firstIndex(of: spec.name) {
                figures[place].append(figure)
            } else {
                names.append(spec.name)
                figures.append([figure])
            }
        }
        search = PrometheusSearch(names: names)
        self.figures = figures
        blockSizeLabel = metrics.blockSizeLabel
        blockCountLabel = metrics.blockCountLabel
    }

    /// Begins a page.
    public func begin() {
        search.begin()
        load = ServerLoad()
        isFound = false
        newestLoRA = -.infinity
        error = nil
    }

    /// Reads the next piece of the page.
    public func receive(_ piece: UnsafeRawBufferPointer) {
        guard error == nil else { return }
        do {
            try search.read(piece) { note($1, named: $0) }
        } catch {
            self.error = error
        }
    }

    /// Ends the page.
    ///
    /// - Returns: nil if the page has none of the figures.
    /// - Throws: ``ScanError`` of the first line of a wanted name that is malformed.
    public func finish() throws(ScanError) -> ServerLoad? {
        if let error { throw error }
        try search.finish { note($1, named: $0) }
        return isFound ? load : nil
    }

    private func note(_ sample: PrometheusSample, named place: Int) {
        for figure in figures[place]
        where figure.labels.allSatisfy({ sample.hasLabel($0.key, $0.value) }) {
            isFound = true
            note(sample, as: figure.role)
        }
    }

    private func note(_ sample: PrometheusSample, as role: Role) {
        let value = sample.value
        switch role {
        case .queued: load.waitingCount += count(value) ?? 0
        case .running: load.runningCount += count(value) ?? 0
        case .kvUsage: if value >= 0 { load.kvUsage = max(load.kvUsage, min(value, 1)) }
        case .lora:
            // A series stays after its adapters have changed; the value is its time.
            guard value > newestLoRA else { return }
            newestLoRA = value
            load.lora = loras.value(of: sample) { lora($0) }
        case .cacheInfo:
            let size = cacheSizes.value(of: sample) { sample in
                CacheSize(
                    blockSize: sample.label(blockSizeLabel).flatMap { Int($0) },
                    blockCount: sample.label(blockCountLabel).flatMap { Int($0) })
            }
            load.blockSize = size.blockSize ?? load.blockSize
            load.blockCount = size.blockCount ?? load.blockCount
        case .blockSize: load.blockSize = count(value) ?? load.blockSize
        case .blockCount: load.blockCount = count(value) ?? load.blockCount
        case .custom(let attribute): load.attributes[attribute] = value
        }
    }

    private func lora(_ sample: PrometheusSample) -> LoRALoad? {
        guard let maximum = sample.label("max_lora").flatMap({ Int($0) }) else { return nil }
        func names(_ label: String) -> [String] {
            sample.label(label)?.split(separator: ",").map { String($0.drop { $0 == " " }) } ?? []
        }
        return LoRALoad(
            maximumCount: maximum, running: names("running_lora_adapters"),
            waiting: names("waiting_lora_adapters"))
    }

    /// Nil for what is no number of anything.
    private func count(_ value: Double) -> Int? {
        value >= 0 && value < 1e9 ? Int(value) : nil
    }
}

/// What was made of the labels of the last few series of one name.
private struct LabelMemory<Value> {
    private static var limit: Int { 8 }
    private var entries: [(labels: [UInt8], value: Value)] = []

    mutating func value(
        of sample: PrometheusSample, _ make: (PrometheusSample) -> Value
    ) -> Value {
        let labels = sample.labels
        for entry in entries
        where entry.labels.count == labels.count && entry.labels.elementsEqual(labels) {
            return entry.value
        }
        let value = make(sample)
        if entries.count == Self.limit { entries.removeFirst() }
        entries.append((Array(labels), value))
        return value
    }
}
