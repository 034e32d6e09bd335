internal import CScan

/// Finds the samples of a few names in pages of metrics that come in pieces, without reading the
/// rest of the page. Belongs to one thread at a time.
///
/// A page is ``begin()``, its pieces one after the other, and ``finish(_:)``. Errors are of the
/// line at fault; lines of other names are not looked at, so that nothing is said of their form.
public final class PrometheusSearch {
    private let handle: OpaquePointer

    /// Makes a search for names, none of them empty.
    public init(names: [String]) {
        precondition(names.allSatisfy { !$0.isEmpty }, "a metric without a name")
        let text = names.flatMap(\.utf8)
        let lengths = names.map(\.utf8.count)
        guard let handle = cs_prom_search_create(text, lengths, names.count) else {
            fatalError("no memory for a search")
        }
        self.handle = handle
    }

    deinit {
        cs_prom_search_free(handle)
    }

    /// Begins a page; what was read of another one is forgotten.
    public func begin() {
        cs_prom_search_restart(handle)
    }

    /// Reads the next piece of the page, which may end anywhere. Calls `body` with the place of the
    /// name among the names of the search and with the sample, which must not be kept.
    public func read(
        _ piece: UnsafeRawBufferPointer, _ body: (Int, PrometheusSample) -> Void
    ) throws(ScanError) {
        let bytes = piece.assumingMemoryBound(to: UInt8.self).baseAddress
        var offset = 0
        var found = cs_prom_found()
        while true {
            let status = cs_prom_search_next(handle, bytes, piece.count, &offset, &found)
            guard status == CS_OK else { return try check(status) }
            body(Int(found.name_index), PrometheusSample(found))
        }
    }

    /// Ends the page: its last line may have no newline behind it.
    public func finish(_ body: (Int, PrometheusSample) -> Void) throws(ScanError) {
        var found = cs_prom_found()
        let status = cs_prom_search_last(handle, &found)
        guard status == CS_OK else { return try check(status) }
        body(Int(found.name_index), PrometheusSample(found))
    }

    private func check(_ status: cs_status) throws(ScanError) {
        try ScanError.check(status, at: cs_prom_search_line_at(handle))
    }
}
