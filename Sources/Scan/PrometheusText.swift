internal import CScan

/// Pages of metrics: Prometheus text 0.0.4 and OpenMetrics 1.0.
public enum PrometheusText {
    /// Calls `body` with each sample of the page, in its order. A sample must not be kept.
    ///
    /// - Throws: ``ScanError`` at the first malformed line, with the offset of the line.
    public static func forEachSample(
        in page: [UInt8], _ body: (PrometheusSample) -> Void
    ) throws(ScanError) {
        var offset = 0
        let status = page.withUnsafeBufferPointer { page in
            var sample = cs_prom_sample()
            while true {
                let status = cs_prom_next(page.baseAddress, page.count, &offset, &sample)
                guard status == CS_OK else { return status }
                body(PrometheusSample(page: page, sample: sample))
            }
        }
        try ScanError.check(status, at: offset)
    }
}

/// One sample of a page of metrics; valid only in the call that got it.
public struct PrometheusSample {
    fileprivate let page: UnsafeBufferPointer<UInt8>
    fileprivate var sample: cs_prom_sample

    fileprivate init(page: UnsafeBufferPointer<UInt8>, sample: cs_prom_sample) {
        self.page = page
        self.sample = sample
    }

    /// A sample whose page is its line.
    init(_ found: cs_prom_found) {
        self.init(
            page: UnsafeBufferPointer(start: found.line, count: found.line_bytes),
            sample: found.sample)
    }

    /// The name; for comparing ``isNamed(_:)`` is faster.
    public var name: String {
        String(
            decoding: page[sample.name_start_bytes..<sample.name_end_bytes], as: UTF8.self)
    }

    /// Whether the sample has this name; makes no `String`.
    public func isNamed(_ name: String) -> Bool {
        let own = page[sample.name_start_bytes..<sample.name_end_bytes]
        return own.count == name.utf8.count && own.elementsEqual(name.utf8)
    }

    /// The labels as they stand between the braces; tells the series of one name apart.
    public var labels: UnsafeBufferPointer<UInt8> {
        UnsafeBufferPointer(rebasing: page[sample.labels_start_bytes..<sample.labels_end_bytes])
    }

    /// The value of a label, unescaped.
    public func label(_ name: String) -> String? {
        text(ofLabel: name).map(unescaped)
    }

    /// Whether a label has this value, or, if the value is empty, is not there; makes no `String`
    /// of a value without escapes.
    public func hasLabel(_ name: String, _ value: String) -> Bool {
        guard let text = text(ofLabel: name) else { return value.isEmpty }
        return text.contains(UInt8(ascii: "\\"))
            ? unescaped(text) == value
            : text.count == value.utf8.count && text.elementsEqual(value.utf8)
    }

    private func text(ofLabel name: String) -> Slice<UnsafeBufferPointer<UInt8>>? {
        var start = 0
        var end = 0
        var name = name
        let found = name.withUTF8 { name in
            withUnsafePointer(to: sample) {
                cs_prom_label(page.baseAddress, $0, name.baseAddress, name.count, &start, &end)
            }
        }
        return found ? page[start..<end] : nil
    }

    /// The value.
    public var value: Double {
        decimal(in: page, sample.value_start_bytes..<sample.value_end_bytes)
    }

    private func unescaped(_ text: Slice<UnsafeBufferPointer<UInt8>>) -> String {
        let backslash = UInt8(ascii: "\\")
        guard text.contains(backslash) else { return String(decoding: text, as: UTF8.self) }
        var plain: [UInt8] = []
        var rest = text.makeIterator()
        while let byte = rest.next() {
            guard byte == backslash, let escaped = rest.next() else {
                plain.append(byte)
                continue
            }
            plain.append(escaped == UInt8(ascii: "n") ? UInt8(ascii: "\n") : escaped)
        }
        return String(decoding: plain, as: UTF8.self)
    }
}
