// Block hashes and request keys of prompts of 8,192 tokens, ids uniform over Llama 3's vocabulary,
// hashed through the Swift face into arrays.

import CHashingPeer
import Foundation
import Hashing
import PerfSupport

let tokenCount = 8192
let promptsPerRound = 100

/// Two prompts, one after the other.
func makePrompts() -> [UInt32] {
    var state: UInt64 = 1
    return (0..<2 * tokenCount).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt32(state >> 33) % 128_256
    }
}

func prompts(
    ofBlocks blockSize: Int, atOnce count: Int = 1, _ body: @escaping () -> Void
) -> Contender {
    Contender(operations: promptsPerRound * count * (tokenCount / blockSize)) {
        for _ in 0..<promptsPerRound { body() }
    }
}

/// vLLM's own code, if `perf/peers` installed what it needs.
func startVLLM(blockSize: Int) throws -> Contender? {
    let python = ".build/peers/python/bin/python"
    guard FileManager.default.isExecutableFile(atPath: python) else { return nil }
    let process = try MeasuredProcess(
        python, ["perf/hashing/vllm_hash.py", "\(blockSize)"])
    return Contender(operations: 10 * (tokenCount / blockSize), in: process) {
        try process.doOnce()
    }
}

func measureBlockHashes(of tokens: [UInt32], blockSize: Int) throws {
    let hasher = try BlockHasher(blockSize: blockSize)
    let root = hasher.noneHash?.bytes ?? []
    let ranges = [0..<tokenCount, tokenCount..<2 * tokenCount]

    var hashes: [BlockHash] = []
    var pair: [BlockHash] = []
    var peerHash = [UInt8](repeating: 0, count: BlockHash.byteCount)
    var floorHash = peerHash
    let compressionCount = chp_hash_chain(tokens, tokenCount, blockSize, root, &peerHash)
    let contenders = [
        prompts(ofBlocks: blockSize) {
            hashes = hasher.hashes(of: tokens.span.extracting(first: tokenCount))
        },
        prompts(ofBlocks: blockSize, atOnce: 2) {
            pair = hasher.hashes(of: tokens.span, prompts: ranges)
        },
        prompts(ofBlocks: blockSize) {
            _ = chp_hash_chain(tokens, tokenCount, blockSize, root, &peerHash)
        },
        prompts(ofBlocks: blockSize) { chp_compress(compressionCount, &floorHash) },
    ]
    let figures = try measureCPUTime(
        contenders + [startVLLM(blockSize: blockSize)].compactMap(\.self))
    guard hashes.last?.bytes == peerHash, pair.starts(with: hashes) else {
        throw PerfError("ours and the peer disagree")
    }
    let name = "sha256_cbor, block \(blockSize), \(HashKernel.name)"
    func report(
        _ case: String, _ ours: Int, peer: (String, Double)?, floor: Double?, goal: Double
    ) throws {
        try Row(
            suite: "hashing", name: "\(name), \(`case`)", metric: "CPU time", unit: "ns/block",
            ours: figures[ours], peer: peer, floor: floor, goal: .ratioToPeer(atMost: goal)
        ).print()
    }
    let openSSL = ("OpenSSL Init/Update/Final", figures[2].median)
    let vLLM = figures.count > 4 ? ("vLLM's Python", figures[4].median) : nil
    try report("one prompt", 0, peer: openSSL, floor: figures[3].median, goal: 1)
    try report("two prompts", 1, peer: openSSL, floor: nil, goal: 0.65)
    try report("one prompt", 0, peer: vLLM, floor: nil, goal: 1 / 22)
}

func measureKeys(_ name: String, blockSize: Int, _ body: @escaping () -> Void) throws {
    let figures = try measureCPUTime([prompts(ofBlocks: blockSize, body)])
    try Row(
        suite: "hashing", name: "\(name), block \(blockSize)", metric: "CPU time",
        unit: "ns/block", ours: figures[0]
    ).print()
}

runSuite {
    let tokens = makePrompts()
    let prompt = Array(tokens.prefix(tokenCount))
    for blockSize in [16, 64] {
        try measureBlockHashes(of: tokens, blockSize: blockSize)
        let pickled = try BlockHasher(algorithm: .sha256, blockSize: blockSize)
        try measureKeys("sha256", blockSize: blockSize) { _ = pickled.hashes(of: prompt.span) }
        let short = try ShortBlockHasher(algorithm: .xxhashCBOR, seed: "0", blockSize: blockSize)
        try measureKeys("xxhash_cbor", blockSize: blockSize) { _ = short.hashes(of: prompt.span) }
        for algorithm in RequestKeyAlgorithm.allCases {
            let hasher = try RequestKeyHasher(
                algorithm: algorithm, model: "model", blockSize: blockSize)
            try measureKeys(algorithm.rawValue, blockSize: blockSize) {
                _ = hasher.keys(of: prompt.span)
            }
        }
    }
}
