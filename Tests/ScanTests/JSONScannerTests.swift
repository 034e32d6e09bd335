import Scan
import Testing

@Suite struct JSONScannerTests {
    @Test func agreesWithFoundationAtEverySplit() throws {
        let seed = newSeed("JSONScannerTests")
        var generator = JSONGenerator(random: SeededRandom(seed: seed))
        for _ in 0..<200 {
            let (text, model) = generator.document()
            let bytes = Array(text.utf8)
            #expect(try JSONModel.foundation(bytes) == model, "seed \(seed): \(text)")
            for split in 0...bytes.count {
                let document = try scan(bytes, splitAt: split)
                #expect(
                    JSONModel(document.root) == model, "seed \(seed), split at \(split): \(text)")
            }
        }
    }

    /// Damaged documents: refused, or accepted with Foundation's reading, and the same at every
    /// split.
    @Test func agreesWithFoundationOnDamagedTexts() throws {
        let seed = newSeed("JSONScannerTests damaged")
        var generator = JSONGenerator(random: SeededRandom(seed: seed))
        var refused = 0
        for _ in 0..<2000 {
            let bytes = damaged(Array(generator.document().text.utf8), &generator.random)
            let whole = outcome(bytes, splitAt: 0)
            let split = generator.random.below(bytes.count + 1)
            let text = "seed \(seed): \(String(decoding: bytes, as: UTF8.self))"
            #expect(outcome(bytes, splitAt: split) == whole, "split at \(split), \(text)")
            let read = try? JSONModel.foundation(bytes)
            switch whole {
            case .success(let model): #expect(read == model, "\(text)")
            case .failure(let error):
                refused += 1
                if !isTrailingComma(error, in: bytes) { #expect(read == nil, "\(text)") }
            }
        }
        #expect(refused > 500)
    }

    /// One byte is removed, put in or changed. No exponent comes in, and none gets a digit for its
    /// sign: Foundation refuses numbers that a double cannot hold.
    private func damaged(_ text: [UInt8], _ random: inout SeededRandom) -> [UInt8] {
        let marks = Array("[]{},:\"\\0-. \u{1}tn".utf8)
        var bytes = text
        let at = random.below(bytes.count)
        switch random.below(3) {
        case 0: bytes.remove(at: at)
        case 1: bytes.insert(marks[random.below(marks.count)], at: at)
        default:
            let byte = UInt8(random.below(256))
            let isBarred = byte | 0x20 == UInt8(ascii: "e") || bytes[at] == UInt8(ascii: "-")
            bytes[at] = isBarred ? 0 : byte
        }
        return bytes
    }

    /// Foundation lets arrays and objects end with a comma.
    private func isTrailingComma(_ error: ScanError, in bytes: [UInt8]) -> Bool {
        [.expectedValue, .expectedKey].contains(error.reason)
            && [UInt8(ascii: "]"), UInt8(ascii: "}")].contains(bytes[error.offset])
    }

    @Test func errorsTellOffsetAndReason() {
        #expect(error(of: #"{"model": "#) == ScanError(offset: 10, reason: .truncated))
        #expect(error(of: #"{"a":1,}"#) == ScanError(offset: 7, reason: .expectedKey))
        #expect(error(of: #"["\ud800"]"#) == ScanError(offset: 2, reason: .loneSurrogate))
        #expect(error(of: "") == ScanError(offset: 0, reason: .truncated))
        #expect(
            error(of: "[1 2]")?.description
                == "expected ',' or the end of the array or object at byte 3")
    }

    @Test func everyReasonHasAMessage() {
        for reason in ScanError.Reason.allCases {
            #expect(reason.message != "unknown status", "\(reason)")
        }
        #expect(Set(ScanError.Reason.allCases.map(\.message)).count == 20)
    }

    @Test func anErrorStays() {
        let scanner = JSONScanner()
        let bad = ScanError(offset: 1, reason: .expectedValue)
        #expect(throws: bad) { try feed(scanner, "[x") }
        #expect(throws: bad) { try feed(scanner, "]") }
        #expect(throws: bad) { try scanner.finish() }
    }

    @Test func canBeUsedAgain() throws {
        let scanner = JSONScanner(expectedBytes: 16)
        try feed(scanner, "[1,")
        try feed(scanner, "2]")
        #expect(scanner.bytes == Array("[1,2]".utf8))
        #expect(JSONModel(try scanner.finish().root) == .array([.number(1), .number(2)]))
        #expect(scanner.bytes.isEmpty)
        try feed(scanner, "true")
        #expect(JSONModel(try scanner.finish().root) == .bool(true))
    }

    @Test func documentsAreSharedBetweenThreads() async throws {
        let document = try JSONDocument.parse(Array(#"{"a":[1,2,3]}"#.utf8))
        await withTaskGroup(of: Int?.self) { group in
            for _ in 0..<8 {
                group.addTask { document["a"]?.elements.compactMap(\.int).reduce(0, +) }
            }
            for await sum in group { #expect(sum == 6) }
        }
    }

    private func feed(_ scanner: JSONScanner, _ text: String) throws {
        try Array(text.utf8).withUnsafeBytes { try scanner.feed($0) }
    }

    private func scan(_ bytes: [UInt8], splitAt split: Int) throws -> JSONDocument {
        let scanner = JSONScanner()
        try bytes[..<split].withUnsafeBytes { try scanner.feed($0) }
        try bytes[split...].withUnsafeBytes { try scanner.feed($0) }
        return try scanner.finish()
    }

    /// What the text means, or what is wrong with it.
    private func outcome(_ bytes: [UInt8], splitAt split: Int) -> Result<JSONModel, ScanError> {
        do {
            return .success(JSONModel(try scan(bytes, splitAt: split).root))
        } catch let error as ScanError {
            return .failure(error)
        } catch {
            preconditionFailure("the scanner threw \(error)")
        }
    }

    private func error(of text: String) -> ScanError? {
        switch outcome(Array(text.utf8), splitAt: 0) {
        case .success: nil
        case .failure(let error): error
        }
    }
}
