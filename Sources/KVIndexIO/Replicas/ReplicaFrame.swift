import Core

/// How the keys of an index are made. Only routers that agree in all of it can share one.
package struct ReplicaKeys: Hashable, CustomStringConvertible {
    package var algorithm: String
    package var blockSize: UInt32
    package var seed: String

    package init(algorithm: String, blockSize: UInt32, seed: String) {
        self.algorithm = algorithm
        self.blockSize = blockSize
        self.seed = seed
    }

    package var description: String {
        "\(algorithm), blocks of \(blockSize) tokens, seed '\(seed)'"
    }
}

/// How a router begins to talk.
package struct ReplicaGreeting: Hashable {
    package var version = ReplicaFrame.version
    /// Who talks; another one in each process.
    package var router: UInt64
    /// Of which life of the router the positions are; another one in each process, not 0.
    package var epoch: UInt64
    /// The longest frame that the router takes.
    package var maximumFrameBytes: UInt32
    package var keys: ReplicaKeys

    package init(
        router: UInt64, epoch: UInt64, maximumFrameBytes: UInt32, keys: ReplicaKeys
    ) {
        self.router = router
        self.epoch = epoch
        self.maximumFrameBytes = maximumFrameBytes
        self.keys = keys
    }
}

/// What happened to an endpoint's blocks, as routers tell each other.
package enum ReplicaChange: Hashable {
    case stored(SharedBlock)
    case removed(SharedBlock)
    case cleared
}

/// What routers tell each other: one message each of a gRPC stream. Numbers are big-endian, texts
/// are UTF-8 after their length in two bytes, blocks as `SharedBlock.encoded`.
///
///     1 greeting   both       version 2, router 8, epoch 8, longest frame 4, block size 4,
///                             algorithm text, seed text
///     2 heartbeat  both
///     3 follow     follower   number 4, epoch 8 (0: none), position 8, endpoint text
///     4 unfollow   follower   number 4
///     5 offer      teller     is offered 1, endpoint text
///     6 begin      teller     number 4, position 8
///     7 blocks     teller     number 4, blocks
///     8 end        teller     number 4, position 8
///     9 changes    teller     number 4, position 8, changes: 1 and a block stored, 2 and a block
///                             removed, 3 cleared
///    10 load       teller     sequence 8, floor 8, entries: 1, requests 4, prompt tokens 8, output
///                             tokens 8, endpoint text; 2, priority 8, service 8, half-life 8,
///                             fairness id text
///
/// Loads are told only to followers whose call says by ``loadHeader`` that they take them.
package enum ReplicaFrame: Hashable {
    package static let version: UInt16 = 1
    /// Frames this long every router takes.
    static let minimumFrameBytes: UInt32 = 4 << 10
    static let maximumTextBytes = 1024
    /// Before the blocks, and before the changes.
    static let blocksHeadBytes = 5
    static let changesHeadBytes = 13
    static let changeBytes = 1 + SharedBlock.encodedByteCount
    /// The header of a follower's call with the newest version of loads that it takes, and that
    /// version.
    package static let loadHeader = "llmd-load-version"
    package static let loadVersion = 1

    case greeting(ReplicaGreeting)
    case heartbeat
    case follow(number: UInt32, endpoint: String, epoch: UInt64, position: UInt64)
    case unfollow(number: UInt32)
    case offer(endpoint: String, isOffered: Bool)
    case begin(number: UInt32, position: UInt64)
    case blocks(number: UInt32, [SharedBlock])
    case end(number: UInt32, position: UInt64)
    case changes(number: UInt32, position: UInt64, [ReplicaChange])
    case load(LoadReport)

    // MARK: - Encoding

    package var encoded: [UInt8] {
        var writer = Writer()
        switch self {
        case .greeting(let greeting):
            writer.kind(1)
            writer.integer(greeting.version)
            writer.integer(greeting.router)
            writer.integer(greeting.epoch)
            writer.integer(greeting.maximumFrameBytes)
            writer.integer(greeting.keys.blockSize)
            writer.text(greeting.keys.algorithm)
            writer.text(greeting.keys.seed)
        case .heartbeat: writer.kind(2)
        case .follow(let number, let endpoint, let epoch, let position):
            writer.kind(3, number)
            writer.integer(epoch)
            writer.integer(position)
            writer.text(endpoint)
        case .unfollow(let number): writer.kind(4, number)
        case .offer(let endpoint, let isOffered):
            writer.kind(5)
            writer.bytes.append(isOffered ? 1 : 0)
            writer.text(endpoint)
        case .begin(let number, let position):
            writer.kind(6, number)
            writer.integer(position)
        case .blocks(let number, let blocks):
            writer.bytes.reserveCapacity(
                Self.blocksHeadBytes + blocks.count * SharedBlock.encodedByteCount)
            writer.kind(7, number)
            for block in blocks { writer.block(block) }
        case .end(let number, let position):
            writer.kind(8, number)
            writer.integer(position)
        case .changes(let number, let position, let changes):
            writer.bytes.reserveCapacity(Self.changesHeadBytes + changes.count * Self.changeBytes)
            writer.kind(9, number)
            writer.integer(position)
            for change in changes { writer.change(change) }
        case .load(let report):
            writer.kind(10)
            writer.integer(report.sequence)
            writer.integer(report.floor)
            for endpoint in report.endpoints { writer.endpoint(endpoint) }
            for service in report.services { writer.service(service) }
        }
        return writer.bytes
    }

    private struct Writer {
        var bytes: [UInt8] = []

        mutating func kind(_ kind: UInt8) { bytes.append(kind) }

        mutating func kind(_ kind: UInt8, _ number: UInt32) {
            bytes.append(kind)
            integer(number)
        }

        mutating func integer(_ value: some FixedWidthInteger) {
            withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
        }

        mutating func text(_ text: String) {
            integer(UInt16(text.utf8.count))
            bytes.append(contentsOf: text.utf8)
        }

        mutating func block(_ block: SharedBlock) {
            let encoded = block.encoded
            withUnsafeBytes(of: encoded) { bytes.append(contentsOf: $0) }
        }

        mutating func endpoint(_ endpoint: EndpointInFlight) {
            bytes.append(1)
            integer(UInt32(clamping: endpoint.load.requests))
            integer(UInt64(clamping: min(endpoint.load.prefillTokens, LoadReport.maximumCount)))
            integer(UInt64(clamping: min(endpoint.load.outputTokens, LoadReport.maximumCount)))
            text(endpoint.name)
        }

        mutating func service(_ service: AttainedService) {
            bytes.append(2)
            integer(Int64(service.flow.priority))
            integer(min(service.tokens, LoadReport.serviceRange.upperBound).bitPattern)
            let halfLife = max(service.halfLifeSeconds, LoadReport.halfLifeRange.lowerBound)
            integer(min(halfLife, LoadReport.halfLifeRange.upperBound).bitPattern)
            text(service.flow.fairnessID)
        }

        mutating func change(_ change: ReplicaChange) {
            switch change {
            case .stored(let block):
                bytes.append(1)
                self.block(block)
            case .removed(let block):
                bytes.append(2)
                self.block(block)
            case .cleared: bytes.append(3)
            }
        }
    }

    // MARK: - Decoding

    /// - Throws: ``ReplicaError/malformed(_:)``, which says what and where. Takes no more memory
    ///   than a small multiple of the bytes.
    package init(decoding bytes: UnsafeRawBufferPointer) throws(ReplicaError) {
        var reader = Reader(bytes: bytes)
        switch try reader.byte("the kind") {
        case 1:
            let version: UInt16 = try reader.integer("the version")
            // What follows may be otherwise in other versions.
            guard version == Self.version else { throw .version(version) }
            self = .greeting(
                ReplicaGreeting(
                    router: try reader.integer("the router"),
                    epoch: try reader.integer("the epoch"),
                    maximumFrameBytes: try reader.integer("the longest frame"),
                    keys: try reader.keys()))
        case 2: self = .heartbeat
        case 3:
            let number: UInt32 = try reader.integer("the number")
            let epoch: UInt64 = try reader.integer("the epoch")
            let position: UInt64 = try reader.integer("the position")
            self = .follow(
                number: number, endpoint: try reader.text("the endpoint"), epoch: epoch,
                position: position)
        case 4: self = .unfollow(number: try reader.integer("the number"))
        case 5:
            let isOffered = try reader.byte("whether it is offered")
            guard isOffered < 2 else { throw reader.error("is offered: \(isOffered)") }
            self = .offer(endpoint: try reader.text("the endpoint"), isOffered: isOffered == 1)
        case 6:
            self = .begin(
                number: try reader.integer("the number"),
                position: try reader.integer("the position"))
        case 7:
            let number: UInt32 = try reader.integer("the number")
            var blocks: [SharedBlock] = []
            blocks.reserveCapacity(reader.left / SharedBlock.encodedByteCount)
            while reader.left > 0 { blocks.append(try reader.block()) }
            self = .blocks(number: number, blocks)
        case 8:
            self = .end(
                number: try reader.integer("the number"),
                position: try reader.integer("the position"))
        case 9:
            let number: UInt32 = try reader.integer("the number")
            let position: UInt64 = try reader.integer("the position")
            var changes: [ReplicaChange] = []
            changes.reserveCapacity(reader.left / Self.changeBytes)
            while reader.left > 0 { changes.append(try reader.change()) }
            self = .changes(number: number, position: position, changes)
        case 10:
            var report = LoadReport(
                sequence: try reader.integer("the sequence"),
                floor: try reader.integer("the floor"))
            while reader.left > 0 { try reader.entry(into: &report) }
            self = .load(report)
        case let kind: throw reader.error("there is no kind \(kind)")
        }
        guard reader.left == 0 else { throw reader.error("\(reader.left) bytes too many") }
    }

    private struct Reader {
        let bytes: UnsafeRawBufferPointer
        var position = 0

        init(bytes: UnsafeRawBufferPointer) {
            self.bytes = bytes
        }

        var left: Int { bytes.count - position }

        func error(_ problem: String) -> ReplicaError {
            let kind = bytes.first.map { " of kind \($0)" } ?? ""
            return .malformed("a frame\(kind), at byte \(position): \(problem)")
        }

        mutating func take(_ count: Int, _ what: String) throws(ReplicaError)
            -> UnsafeRawBufferPointer
        {
            guard left >= count else { throw error("ends inside \(what)") }
            defer { position += count }
            return UnsafeRawBufferPointer(rebasing: bytes[position..<(position + count)])
        }

        mutating func byte(_ what: String) throws(ReplicaError) -> UInt8 { try take(1, what)[0] }

        mutating func integer<Value: FixedWidthInteger>(_ what: String) throws(ReplicaError)
            -> Value
        {
            let bytes = try take(MemoryLayout<Value>.size, what)
            return Value(bigEndian: bytes.loadUnaligned(as: Value.self))
        }

        mutating func text(_ what: String) throws(ReplicaError) -> String {
            let count: UInt16 = try integer(what)
            guard count <= ReplicaFrame.maximumTextBytes else {
                throw error("\(what) has \(count) bytes")
            }
            let bytes = try take(Int(count), what)
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw error("\(what) is not UTF-8")
            }
            return text
        }

        mutating func keys() throws(ReplicaError) -> ReplicaKeys {
            let blockSize: UInt32 = try integer("the block size")
            return ReplicaKeys(
                algorithm: try text("the algorithm"), blockSize: blockSize,
                seed: try text("the seed"))
        }

        mutating func block() throws(ReplicaError) -> SharedBlock {
            let bytes = try take(SharedBlock.encodedByteCount, "a block")
            guard let block = SharedBlock(encoded: bytes) else {
                throw error("a block's tier is none")
            }
            return block
        }

        /// An endpoint's or a flow's entry of a load. Flows come after endpoints.
        mutating func entry(into report: inout LoadReport) throws(ReplicaError) {
            switch try byte("an entry") {
            case 1 where report.services.isEmpty:
                let requests: UInt32 = try integer("the requests")
                let load = InFlightLoad(
                    requests: Int(requests), prefillTokens: try count("the prompt tokens"),
                    outputTokens: try count("the output tokens"))
                report.endpoints.append(
                    EndpointInFlight(name: try text("the endpoint"), load: load))
            case 2:
                let priority: Int64 = try integer("the priority")
                let tokens = try number(in: LoadReport.serviceRange, "the service")
                let halfLife = try number(in: LoadReport.halfLifeRange, "the half-life")
                report.services.append(
                    AttainedService(
                        flow: FlowID(
                            fairnessID: try text("the fairness id"), priority: Int(priority)),
                        tokens: tokens, halfLifeSeconds: halfLife))
            case let kind: throw error("there is no entry \(kind) here")
            }
        }

        mutating func count(_ what: String) throws(ReplicaError) -> Int {
            let value: UInt64 = try integer(what)
            guard value <= UInt64(LoadReport.maximumCount) else {
                throw error("\(what) are \(value)")
            }
            return Int(value)
        }

        mutating func number(
            in range: ClosedRange<Double>, _ what: String
        ) throws(ReplicaError) -> Double {
            let value = Double(bitPattern: try integer(what))
            guard range.contains(value) else { throw error("\(what) is \(value)") }
            return value
        }

        mutating func change() throws(ReplicaError) -> ReplicaChange {
            switch try byte("a change") {
            case 1: .stored(try block())
            case 2: .removed(try block())
            case 3: .cleared
            case let kind: throw error("there is no change \(kind)")
            }
        }
    }
}
