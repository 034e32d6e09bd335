import Foundation
import Scan
import Testing

@Suite struct MessagePackTests {
    /// The samples' `decoded` is plain JSON, with bytes as `{"hex": …}`.
    @Test func kvEventSamples() throws {
        let file = try JSONDocument.parse(try vectors("kv_event_samples.json"))
        let samples = try #require(file["samples"])
        var count = 0
        for sample in samples.elements {
            count += 1
            let name = sample["name"]?.string ?? ""
            let payload = bytes(hex: sample["hex"]?.string ?? "")
            try payload.withUnsafeBytes { payload in
                var reader = MessagePackReader(payload)
                let value = try read(&reader)
                #expect(reader.isAtEnd, "\(name)")
                #expect(value == (try #require(sample["decoded"]).rawModel), "\(name)")
                var skipping = MessagePackReader(payload)
                try skipping.skip()
                #expect(skipping.isAtEnd, "\(name)")
            }
            // Not all samples are minimal; what the writer makes must read the same.
            var writer = MessagePackWriter(capacity: payload.count)
            try payload.withUnsafeBytes { payload in
                var reader = MessagePackReader(payload)
                try copy(&reader, to: &writer)
            }
            #expect(writer.bytes.count <= payload.count, "\(name)")
            try writer.bytes.withUnsafeBytes { payload in
                var reader = MessagePackReader(payload)
                let value = try read(&reader)
                #expect(value == (try #require(sample["decoded"]).rawModel), "\(name)")
            }
        }
        #expect(count == 40)
    }

    @Test func writerTakesTheShortestFormat() throws {
        var writer = MessagePackWriter()
        for value: Int64 in [0, 127, 128, 255, 256, 65535, 65536, 4_294_967_295, 4_294_967_296] {
            writer.int(value)
        }
        for value: Int64 in [-1, -32, -33, -128, -129, -32768, -32769, -2_147_483_648, .min] {
            writer.int(value)
        }
        let sizes = [1, 1, 2, 2, 3, 3, 5, 5, 9, 1, 1, 2, 2, 3, 3, 5, 5, 9]
        try writer.bytes.withUnsafeBytes { bytes in
            var reader = MessagePackReader(bytes)
            for size in sizes {
                let start = reader.offset
                _ = try reader.next()
                #expect(reader.offset - start == size)
            }
            #expect(reader.isAtEnd)
        }
        writer.removeAll()
        #expect(writer.bytes.isEmpty)
    }

    @Test(arguments: [0, 15, 16, 31, 32, 255, 256, 65535, 65536])
    func lengths(_ count: Int) throws {
        var writer = MessagePackWriter()
        writer.string(String(repeating: "s", count: count))
        writer.binary(Array(repeating: 7, count: count))
        writer.array(count: count)
        for _ in 0..<count { writer.null() }
        writer.map(count: count)
        for _ in 0..<count {
            writer.unsigned(1)
            writer.bool(true)
        }
        // Of a header with a count of 16 or 32 bits.
        let length = count < 65536 ? 3 : 5
        try writer.bytes.withUnsafeBytes { bytes in
            var reader = MessagePackReader(bytes)
            #expect(try reader.string().utf8.count == count)
            #expect(reader.offset == count + (count < 32 ? 1 : count < 256 ? 2 : length))
            let binaryOffset = reader.offset
            guard case .binary(let binary) = try reader.next() else {
                Issue.record("no binary")
                return
            }
            #expect(binary.count == count && binary.allSatisfy { $0 == 7 })
            #expect(reader.offset == binaryOffset + count + (count < 256 ? 2 : length))
            let arrayOffset = reader.offset
            #expect(try reader.arrayCount() == count)
            #expect(reader.offset == arrayOffset + (count < 16 ? 1 : length))
            for _ in 0..<count {
                let skipped = reader.skipNull()
                #expect(skipped)
            }
            #expect(try reader.mapCount() == count)
            for _ in 0..<count {
                #expect(try reader.unsigned() == 1)
                try reader.skip()
            }
            #expect(reader.isAtEnd)
        }
    }

    @Test func tokenIDs() throws {
        var writer = MessagePackWriter()
        writer.array(count: 3)
        for id: UInt64 in [1, 70000, 4_294_967_295] { writer.unsigned(id) }
        writer.array(count: 2)
        writer.unsigned(1)
        writer.unsigned(4_294_967_296)
        writer.string("x")
        try writer.bytes.withUnsafeBytes { bytes in
            var reader = MessagePackReader(bytes)
            var ids: [UInt32] = [5]
            try reader.tokenIDs(into: &ids)
            #expect(ids == [5, 1, 70000, .max])
            let start = reader.offset
            #expect(throws: ScanError(offset: start + 1, reason: .tokenID)) {
                try reader.tokenIDs(into: &ids)
            }
            #expect(reader.offset == start && ids.count == 4)
            try reader.skip()
            #expect(throws: ScanError(offset: reader.offset, reason: .kind)) {
                try reader.tokenIDs(into: &ids)
            }
        }
    }

    @Test func errorsLeaveTheReaderWhereItWas() throws {
        let bytes: [UInt8] = [0xa2, 0xff, 0xfe, 0xc1]
        bytes.withUnsafeBytes { bytes in
            var reader = MessagePackReader(bytes)
            #expect(throws: ScanError(offset: 0, reason: .malformedUTF8)) { try reader.string() }
            #expect(throws: ScanError(offset: 0, reason: .kind)) { try reader.mapCount() }
            #expect(throws: ScanError(offset: 0, reason: .kind)) { try reader.double() }
            let skipped = reader.skipNull()
            #expect(!skipped)
            #expect((try? reader.stringBytes()).map(Array.init) == [0xff, 0xfe])
            #expect(throws: ScanError(offset: 3, reason: .formatByte)) { try reader.skip() }
        }
        var empty = MessagePackReader(UnsafeRawBufferPointer(start: nil, count: 0))
        #expect(empty.isAtEnd)
        #expect(throws: ScanError(offset: 0, reason: .truncated)) { try empty.next() }
    }

    /// A payload as the samples' `decoded` shows it.
    private func read(_ reader: inout MessagePackReader) throws -> RawModel {
        switch try reader.next() {
        case .null: return .text("null")
        case .bool(let value): return .text("\(value)")
        case .unsigned(let value): return .text("\(value)")
        case .negative(let value): return .text("\(value)")
        case .double(let value): return .text("\(value)")
        case .string(let bytes): return .string(String(decoding: bytes, as: UTF8.self))
        case .binary(let bytes):
            let hex = bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }
            return .object(["hex": .string(hex.joined())])
        case .array(let count):
            return .array(try (0..<count).map { _ in try read(&reader) })
        case .map(let count):
            var members: [String: RawModel] = [:]
            for _ in 0..<count {
                let key = try reader.string()
                members[key] = try read(&reader)
            }
            return .object(members)
        case .extension: return .text("extension")
        }
    }

    private func copy(
        _ reader: inout MessagePackReader, to writer: inout MessagePackWriter
    ) throws {
        switch try reader.next() {
        case .null: writer.null()
        case .bool(let value): writer.bool(value)
        case .unsigned(let value): writer.unsigned(value)
        case .negative(let value): writer.int(value)
        case .double(let value): writer.double(value)
        case .string(let bytes): writer.string(String(decoding: bytes, as: UTF8.self))
        case .binary(let bytes): writer.binary(bytes)
        case .array(let count):
            writer.array(count: count)
            for _ in 0..<count { try copy(&reader, to: &writer) }
        case .map(let count):
            writer.map(count: count)
            for _ in 0..<(2 * count) { try copy(&reader, to: &writer) }
        case .extension: Issue.record("no sample has an extension")
        }
    }

    private func bytes(hex: String) -> [UInt8] {
        let digits = hex.utf8.map { UInt8(ascii: "a") <= $0 ? $0 - 87 : $0 - 48 }
        return stride(from: 0, to: digits.count, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}

/// A value whose numbers are their text, as 64-bit hashes do not fit a double.
private indirect enum RawModel: Equatable {
    case text(String)
    case string(String)
    case array([RawModel])
    case object([String: RawModel])
}

extension JSONValue {
    fileprivate var rawModel: RawModel {
        switch kind {
        case .string: .string(string ?? "")
        case .array: .array(elements.map(\.rawModel))
        case .object:
            .object(Dictionary(uniqueKeysWithValues: members.map { ($0.key, $0.value.rawModel) }))
        default: .text(String(decoding: rawBytes, as: UTF8.self))
        }
    }
}
