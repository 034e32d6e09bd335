import Core
import Hashing
import Indexer
import KVIndex
import Scan
import Synchronization
import Testing

/// An index with blocks of 4 tokens, and engines that a test lets hold some.
final class Shelf: Sendable {
    let index: KVIndex
    let engines: EngineDirectory
    /// What was published last.
    let published: Published

    final class Published: Sendable {
        private let servers = Mutex<[ModelServer]>([])
        var list: [ModelServer] { servers.withLock(\.self) }

        /// Does in the index what an event source does.
        func replace(by new: [ModelServer], in index: KVIndex) {
            servers.withLock { servers in
                for gone in servers where !new.contains(where: { $0.name == gone.name }) {
                    if let handle = index.endpoint(named: gone.name) { index.remove(handle) }
                }
                for server in new { _ = try? index.register(server.name) }
                servers = new
            }
        }
    }

    init(_ names: String..., maximumRegistrations: Int = 8) throws {
        var configuration = KVIndex.Configuration()
        configuration.blockSize = 4
        let index = try KVIndex(configuration: configuration)
        let published = Published()
        engines = EngineDirectory(maximumRegistrations: maximumRegistrations) {
            published.replace(by: $0, in: index)
        }
        self.index = index
        self.published = published
        engines.setPool(
            names.enumerated().map {
                ModelServer(
                    name: $1, address: SocketAddress(host: "10.0.0.\($0 + 1)", port: 8000))
            })
    }

    func lookup(_ weights: TierWeights = .standard) -> PrefixLookup {
        PrefixLookup(index: index, engines: engines, weights: weights)
    }

    /// Lets an engine hold some of a prompt's blocks.
    func store(
        _ tokens: [UInt32], blocks: Range<Int>? = nil, in tier: Tier = .gpu, at engine: String,
        model: String = "m", salt: String? = nil
    ) throws {
        let handle = try #require(index.endpoint(named: engine))
        let hasher = index.hasher(model: model)
        let salted = salt.map { hasher.extraKeys([$0]) }
        let keys = hasher.keys(of: tokens.span) { $0 == 0 ? salted ?? .none : .none }
        let chosen = Array(keys[blocks ?? 0..<keys.count])
        index.add(chosen.span, keys: chosen.span, in: tier, of: handle)
    }
}

func document(_ json: String) throws -> JSONDocument { try JSONDocument.parse(Array(json.utf8)) }

func query(_ json: String) throws -> PrefixQuery {
    try PrefixQuery(try document(json), blockSize: 4)
}

/// What a message of strings and of one kind of wire type looks like.
func field(_ number: UInt8, _ text: String) -> [UInt8] {
    precondition(text.utf8.count < 128)
    return [number << 3 | 2, UInt8(text.utf8.count)] + text.utf8
}
