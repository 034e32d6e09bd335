/// What became of one case of a vector file.
public struct ConformanceResult: Equatable, Sendable {
    /// The case's name, with release, algorithm and seed where a case has several results.
    public var name: String
    /// What differs; nil if all is equal.
    public var failure: String?

    /// Makes a result.
    public init(name: String, failure: String?) {
        self.name = name
        self.failure = failure
    }

    /// Runs a check, which tells what differs; what it throws is a failure too.
    public init(name: String, check: () throws -> String?) {
        self.name = name
        do {
            failure = try check()
        } catch {
            failure = "\(error)"
        }
    }

    /// What to tell of a value that differs; nil if it does not.
    public static func difference<Value: Equatable>(
        _ what: String, _ ours: Value?, _ expected: Value
    ) -> String? {
        guard ours != expected else { return nil }
        return "\(what): \(ours.map { "\($0)" } ?? "nothing"), not \(expected)"
    }
}

/// Why a vector file, or a case in it, cannot be read.
public struct VectorFileError: Error, CustomStringConvertible {
    /// What is wrong, and where.
    public let description: String

    /// Makes an error.
    public init(_ description: String) {
        self.description = description
    }
}

extension [UInt8] {
    /// The bytes of a text in hexadecimal.
    public init(hex: String) throws(VectorFileError) {
        let digits = Array<UInt8>(hex.utf8)
        guard digits.count % 2 == 0 else { throw VectorFileError("odd number of hex digits") }
        self = []
        for index in stride(from: 0, to: digits.count, by: 2) {
            let pair = String(decoding: digits[index..<index + 2], as: UTF8.self)
            guard let byte = UInt8(pair, radix: 16) else {
                throw VectorFileError("'\(pair)' is no byte in hexadecimal")
            }
            append(byte)
        }
    }
}
