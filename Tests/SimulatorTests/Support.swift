import Core
import Foundation
import Hashing
import Simulator

/// A file of `Fixtures`.
func fixture(_ name: String) throws -> Data {
    try Data(
        contentsOf: URL(filePath: #filePath).deletingLastPathComponent()
            .appending(components: "Fixtures", name))
}

/// A fixture that is a JSON object.
func fixtureObject(_ name: String) throws -> [String: Any] {
    try JSONSerialization.jsonObject(with: fixture(name)) as? [String: Any] ?? [:]
}

/// A hash that stands for `number`; its event value is the number.
func hash(_ number: UInt64) -> BlockHash {
    var bytes = [UInt8](repeating: 0, count: 24)
    withUnsafeBytes(of: number.bigEndian) { bytes.append(contentsOf: $0) }
    guard let hash = BlockHash(bytes) else { fatalError("32 bytes make a hash") }
    return hash
}

/// What a subscriber knows after it has seen events: the set of cached blocks.
struct EventReplica {
    private(set) var cached: Set<BlockHash> = []

    /// Applies events; false if one does not fit what was announced before.
    mutating func apply(_ events: [KVEvent], blockSize: Int) -> Bool {
        var fits = true
        for event in events {
            switch event {
            case .stored(let stored):
                fits = fits && stored.tokens.count == stored.hashes.count * blockSize
                for hash in stored.hashes { fits = cached.insert(hash).inserted && fits }
            case .removed(let hash): fits = cached.remove(hash) != nil && fits
            case .cleared: cached = []
            }
        }
        return fits
    }
}

/// `milliseconds` after the origin of a test's time.
func at(_ milliseconds: Double) -> MonotonicTime {
    MonotonicTime(nanoseconds: UInt64((milliseconds * 1e6).rounded()))
}
