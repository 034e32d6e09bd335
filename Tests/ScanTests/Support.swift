import Foundation

/// splitmix64, so that a printed seed repeats a run.
struct SeededRandom: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
        return z ^ z >> 31
    }

    mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }

    /// True once in `n` times.
    mutating func once(in n: Int) -> Bool { below(n) == 0 }
}

/// A new seed, printed so that a failure can be repeated.
func newSeed(_ name: String) -> UInt64 {
    let seed = UInt64.random(in: 0...UInt64.max)
    print("\(name): seed \(seed)")
    return seed
}

func fixture(_ name: String) throws -> [UInt8] {
    let folder = URL(filePath: #filePath).deletingLastPathComponent()
    return Array(try Data(contentsOf: folder.appending(path: "Fixtures/\(name)")))
}

/// A file of the vectors that rooms share.
func vectors(_ name: String) throws -> [UInt8] {
    let folder = URL(filePath: #filePath).deletingLastPathComponent()
    return Array(try Data(contentsOf: folder.appending(path: "../Vectors/\(name)")))
}
