/// A page of metrics in the making: Prometheus text format 0.0.4.
struct Exposition {
    private(set) var bytes: [UInt8] = []

    enum Kind: String {
        case counter, gauge, histogram
    }

    mutating func header(_ name: String, _ help: String, _ kind: Kind) {
        append("# HELP \(name) ")
        append(escaped(help, quotes: false))
        append("\n# TYPE \(name) \(kind.rawValue)\n")
    }

    mutating func sample(_ name: String, _ labels: String, _ value: Double) {
        append(name)
        if !labels.isEmpty {
            append("{")
            append(labels)
            append("}")
        }
        append(" ")
        append(number(value))
        append("\n")
    }

    mutating func histogram(_ name: String, _ labels: String, _ histogram: Histogram) {
        let prefix = labels.isEmpty ? "" : labels + ","
        var cumulative = 0
        for (bound, count) in zip(histogram.bounds + [.infinity], histogram.bucketCounts) {
            cumulative += count
            sample("\(name)_bucket", "\(prefix)le=\"\(number(bound))\"", Double(cumulative))
        }
        sample("\(name)_sum", labels, histogram.sum)
        // The infinite bucket's value, so that the two agree while others observe.
        sample("\(name)_count", labels, Double(cumulative))
    }

    private mutating func append(_ text: String) { bytes.append(contentsOf: text.utf8) }
}

/// As the Go client writes numbers: no fraction where there is none, `+Inf`, `NaN`.
private func number(_ value: Double) -> String {
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
