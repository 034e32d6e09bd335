// Block hashes and request keys of one prompt of 8,192 tokens, ids uniform over Llama 3's
// vocabulary, hashed through the Swift face into arrays.

import CHashingPeer
import Hashing
import PerfSupport

let tokenCount = 8192
let promptsPerRound = 200

func makePrompt() -> [UInt32] {
    var state: UInt64 = 1
    return (0..<tokenCount).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt32(state >> 33) % 128_256
    }
}

func prompts(ofBlocks blockSize: Int, _ body: @escaping () -> Void) -> Contender {
    Contender(operations: promptsPerRound * (tokenCount / blockSize)) {
        for _ in 0..<promptsPerRound { body() }
    }
}

func measureBlockHashes(of tokens: [UInt32], blockSize: Int, goal: Row.Goal?) throws {
    let hasher = try BlockHasher(blockSize: blockSize)
    let root = hasher.noneHash.bytes
    let messages = chp_messages_create(tokens, tokens.count, blockSize)
    defer { chp_messages_destroy(messages) }

    var hashes: [BlockHash] = []
    var peerHash = [UInt8](repeating: 0, count: BlockHash.byteCount)
    var floorHash = peerHash
    let figures = try measureCPUTime([
        prompts(ofBlocks: blockSize) { hashes = hasher.hashes(of: tokens.span) },
        prompts(ofBlocks: blockSize) { chp_hash_chain(messages, root, &peerHash) },
        prompts(ofBlocks: blockSize) { chp_compress(messages, &floorHash) },
    ])
    guard hashes.last?.bytes == peerHash else { throw PerfError("the peer has another hash") }
    try Row(
        suite: "hashing", name: "sha256_cbor, block \(blockSize), \(HashKernel.name)",
        metric: "CPU time", unit: "ns/block", ours: figures[0],
        peer: ("OpenSSL Init/Update/Final, encoded beforehand", figures[1].median),
        floor: figures[2].median, goal: goal
    ).print()
}

func measureRequestKeys(
    of tokens: [UInt32], blockSize: Int, algorithm: RequestKeyAlgorithm
) throws {
    let hasher = try RequestKeyHasher(algorithm: algorithm, model: "model", blockSize: blockSize)
    var keys: [UInt64] = []
    let figures = try measureCPUTime([
        prompts(ofBlocks: blockSize) { keys = hasher.keys(of: tokens.span) }
    ])
    precondition(keys.count == tokenCount / blockSize)
    try Row(
        suite: "hashing", name: "\(algorithm.rawValue), block \(blockSize)", metric: "CPU time",
        unit: "ns/block", ours: figures[0]
    ).print()
}

runSuite {
    let prompt = makePrompt()
    try measureBlockHashes(of: prompt, blockSize: 16, goal: .ratioToPeer(atMost: 1.1))
    try measureBlockHashes(of: prompt, blockSize: 64, goal: nil)
    for algorithm in RequestKeyAlgorithm.allCases {
        for blockSize in [16, 64] {
            try measureRequestKeys(of: prompt, blockSize: blockSize, algorithm: algorithm)
        }
    }
}
