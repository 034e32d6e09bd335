/// A page of metrics in the making: Prometheus text format 0.0.4.
struct Exposition {
    private(set) var bytes: [UInt8] = []

    enum Kind: String {
        case counter, gauge, histogram
    }

    /// The lines above the samples of a metric.
    static func header(_ name: String, _ help: String, _ kind: Kind) -> [UInt8] {
        let help = escaped(help, quotes: false)
        return Array("# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n".utf8)
    }

    mutating func append(_ header: [UInt8]) { bytes.append(contentsOf: header) }

    mutating func sample(_ name: String, _ labels: String, _ value: Double) {
        sample(name, "", labels, "", value)
    }

    /// A sample in pieces that need not be joined first: `name` and `suffix`, `labels` and `label`.
    private mutating func sample(
        _ name: String, _ suffix: String, _ labels: String, _ label: String, _ value: Double
    ) {
        append(name)
        append(suffix)
        if !labels.isEmpty || !label.isEmpty {
            append("{")
            append(labels)
            if !labels.isEmpty, !label.isEmpty { append(",") }
            append(label)
            append("}")
        }
        append(" ")
        append(number(value))
        append("\n")
    }

    mutating func histogram(_ name: String, _ labels: String, _ histogram: Histogram) {
        var cumulative = 0
        for (label, count) in zip(histogram.bucketLabels, histogram.bucketCounts) {
            cumulative += count
            sample(name, "_bucket", labels, label, Double(cumulative))
        }
        sample(name, "_sum", labels, "", histogram.sum)
        // The infinite bucket's value, so that the two agree while others observe.
        sample(name, "_count", labels, "", Double(cumulative))
    }

    private mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }
}

/// As the Go client writes numbers: no fraction where there is none, `+Inf`, `NaN`.
func number(_ value: Double) -> String {
    if let integer = Int(exactly: value), value.magnitude < 1e15 { return String(integer) }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    return value.isNaN ? "NaN" : value.description
}

/// `a="x",b="y"`.
func labelText(_ names: [String], _ values: [String]) -> String {
    zip(names, values).map { "\($0)=\"\(escaped($1, quotes: true))\"" }.joined(separator: ",")
}

private func escaped(_ text: String, quotes: Bool) -> String {
    guard text.utf8.contains(where: { $0 == 0x5c || $0 == 0x0a || $0 == 0x22 }) else {
        return text
    }
    var result = ""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\\": result += "\\\\"
        case "\n": result += "\\n"
        case "\"" where quotes: result += "\\\""
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result
}

func isMetricName(_ name: String) -> Bool {
    isName(name) { $0 == UInt8(ascii: ":") }
}

func isLabelName(_ name: String) -> Bool {
    isName(name) { _ in false }
}

private func isName(_ name: String, _ isAlsoAllowed: (UInt8) -> Bool) -> Bool {
    guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
    return name.utf8.allSatisfy { byte in
        switch byte {
        case 0x30...0x39, 0x41...0x5a, 0x61...0x7a, 0x5f: true
        default: isAlsoAllowed(byte)
        }
    }
}
