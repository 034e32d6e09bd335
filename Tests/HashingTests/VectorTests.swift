import Core
import Foundation
import Hashing
import Testing

/// The published vectors, with every kernel that this CPU runs. Serialized, because a kernel is
/// chosen for the whole process.
@Suite(.serialized) struct VectorTests {
    static let kernels: [String] = ["portable", "openssl", "sha-ni", "armv8"].filter {
        HashKernel.select($0)
    }
    static let files: [(name: String, caseCount: Int)] = [
        ("kv_hash_vectors.json", 146), ("prefix_hash_vectors.json", 188),
        ("vllm_block_hashes.json", 20),
    ]

    private func load(_ name: String) throws -> Data {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        return try Data(contentsOf: tests.appending(path: "Vectors").appending(path: name))
    }

    @Test(arguments: kernels, files) func vectors(
        kernel: String, file: (name: String, caseCount: Int)
    ) throws {
        #expect(HashKernel.select(kernel) && HashKernel.name == kernel)
        let results = try HashConformance.check(load(file.name))
        #expect(results.count == file.caseCount)
        for result in results { #expect(result.failure == nil, "\(result.name)") }
        #expect(HashKernel.select(nil))
    }

    /// A check that could not fail would say nothing: one character of each kind of figure.
    @Test(arguments: [
        ("kv_hash_vectors.json", #""hash_hex": "202d"#, #""hash_hex": "202e"#),
        ("kv_hash_vectors.json", #""event_int_u64": 3236607068019569386"#, #""event_int_u64": 3"#),
        ("kv_hash_vectors.json", #""cache_salt": "tenant-a""#, #""cache_salt": "tenant-b""#),
        ("kv_hash_vectors.json", #""lookahead": 2"#, #""lookahead": 1"#),
        ("kv_hash_vectors.json", #""key_u64": 4762004430771817687"#, #""key_u64": 4"#),
        ("prefix_hash_vectors.json", #""lora_int_id":3"#, #""lora_int_id":4"#),
        ("prefix_hash_vectors.json", #""page_size":64"#, #""page_size":65"#),
        ("prefix_hash_vectors.json", #""keys_u64":["#, #""keys_u64":[1,"#),
        ("vllm_block_hashes.json", #""sha256_hex": "353e"#, #""sha256_hex": "353f"#),
    ])
    func changedVectorsFail(name: String, part: String, change: String) throws {
        let text = String(decoding: try load(name), as: UTF8.self)
        let range = try #require(text.range(of: part), "\(part) is not in the file")
        let changed = text.replacingCharacters(in: range, with: change)
        let results = try HashConformance.check(Data(changed.utf8))
        #expect(results.contains { $0.failure != nil })
        #expect(results.contains { $0.failure == nil })
    }

    @Test(arguments: ["{}", "[]", "", #"{"cases":[]}"#]) func filesWithoutCases(text: String) {
        #expect(throws: (any Error).self) { try HashConformance.check(Data(text.utf8)) }
    }

    @Test func unknownKernelsAreRefused() {
        let name = HashKernel.name
        #expect(!HashKernel.select("abacus"))
        #expect(HashKernel.name == name)
    }
}
