#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Reads files that users write.
public enum ConfigFile {
    /// The text of a file of at most `maximumBytes` bytes of UTF-8.
    public static func text(at path: String, maximumBytes: Int) throws(ConfigError) -> String {
        func error(_ problem: String) -> ConfigError {
            ConfigError(file: path, line: nil, problem: problem)
        }
        guard let file = unsafe fopen(path, "re") else {
            throw error("cannot be opened: \(unsafe String(cString: strerror(errno)))")
        }
        defer { unsafe fclose(file) }
        var bytes = [UInt8](repeating: 0, count: maximumBytes + 1)
        let count = unsafe fread(&bytes, 1, bytes.count, file)
        guard unsafe ferror(file) == 0 else { throw error("cannot be read") }
        guard count <= maximumBytes else { throw error("is longer than \(maximumBytes) bytes") }
        guard let text = String(validating: bytes[..<count], as: UTF8.self) else {
            throw error("is not UTF-8")
        }
        return text
    }
}
